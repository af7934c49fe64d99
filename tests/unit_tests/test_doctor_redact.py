"""Nothing that names a person, a machine or a key is left in a report for strangers."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_gpu.doctor import Proof, redact, report
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.doctor.markdown import markdown
from tests.unit_tests.machines import RTX_4090

UUID = "5e6f7a8b-1111-4222-8333-444455556666"

# What is planted -> the sentence it stands in.
PLANTED = {
    "hf_" + "aBcDeFgHiJkLmNoPqRsT": "token {} was refused",
    "sk-" + "proj-0123456789abcdef": "Incorrect API key provided: {}",
    "ghp_" + "0123456789abcdefghij": "git said {}",
    "nvapi-" + "abcdefghijklmnop": "NGC key {}",
    "AKIA" + "IOSFODNN7EXAMPLE": "aws {}",
    "xoxb-" + "123456789012-abc": "slack {}",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4": "Authorization: Bearer {}",
    "c2VjcmV0OnNlY3JldA==": "Authorization: Basic {}",
    "hunter2hunter2": "password={}",
    "s3cr3tvalue": "https://host/v1?api_key={}&x=1",
    "opensesame": "https://me:{}@proxy:3128/",
    "open@sesame": "https://me:{}@proxy:3128/",
    "onlyname": "https://{}@proxy:3128/",
    "1650921043210": "Serial Number: {}",
    "PF3XK1Z9": "serial {} of the board",
    UUID: "card {} is gone",
    f"GPU-{UUID}": "CUDA_VISIBLE_DEVICES is 'GPU-" + UUID + "' ({})",
    f"MIG-GPU-{UUID}/1/0": "no {}",
    "GPU-5e6f7a8b": "CUDA_VISIBLE_DEVICES is '{}', which names no card here",
    "203.0.113.77": "cannot connect to {}:11434",
    "2001:db8::8a2e:370:7334": "cannot connect to [{}]:11434",
    "52:54:00:12:34:56": "device {}",
    "ada.lovelace@example.org": "installed for {}",
    "0123456789abcdef0123456789abcdef0123": "commit {}",
    "/home/adalovelace": "no file {}/models/x.gguf",
    "/Users/adalovelace": "no file {}/models/x.gguf",
    "C:\\Users\\adalovelace": "no file {}\\models\\x.gguf",
    "/srv/people/ada": "no file {}/models/x.gguf",
    "adalovelace": "user {} may not open /dev/kfd",
    "workhorse-7.lab.example.org": "{} did not answer",
    "zq81kkvalue": "the server said zq81kkvalue",
}
ENVIRON = {
    "HOME": "/srv/people/ada",
    "USER": "adalovelace",
    "HOSTNAME": "workhorse-7.lab.example.org",
    "MY_SERVICE_TOKEN": "zq81kkvalue",
    "TOKENIZERS_PARALLELISM": "false",
    "SOME_API_KEY": "short",
}


@pytest.mark.parametrize("secret", PLANTED)
def test_a_planted_secret_is_gone(secret: str) -> None:
    text = redact(PLANTED[secret].format(secret), ENVIRON)
    assert secret.lower() not in text.lower()
    assert "<" in text or "~" in text


def test_a_whole_report_with_everything_planted() -> None:
    lines = [sentence.format(secret) for secret, sentence in PLANTED.items()]
    proofs = [
        Proof(name="OpenVINO", passed=False, cause="error", what=line, found=(line,))
        for line in lines
    ]
    environment = Environment(
        hub_cache="/srv/people/ada/.cache/hub", hub_free=1, pickled=("/home/adalovelace/old",)
    )
    facts = replace(RTX_4090, environ={"CUDA_VISIBLE_DEVICES": f"GPU-{UUID}"})
    found = redact(report(facts, proofs=proofs, environment=environment), ENVIRON)
    for text in (markdown(found), json.dumps(found, ensure_ascii=False)):
        for secret in PLANTED:
            assert secret.lower() not in text.lower()
        assert "NVIDIA" in text


@pytest.mark.parametrize(
    "text",
    [
        "torch 2.13.0+cu130 runs on compute capability 9.0",
        "tokenizers 0.23.3, langchain-core 1.7.2, NVIDIA driver 580.95.05",
        "pip install --force-reinstall torch -i https://download.pytorch.org/whl/cu130",
        'pip uninstall -y faiss-cpu && pip install "langchain-gpu[faiss-gpu-cuvs]"',
        "no answer from 127.0.0.1:11434 and http://localhost:11434",
        "export CUDA_VISIBLE_DEVICES=0,1",
        "the bus says 0000:01:00.0 at 16:37:05",
        "Linux-6.18.44-x86_64-with-glibc2.36",
        "std::bad_alloc in faiss::gpu::allocMemory",
        "unset TOKENIZERS_PARALLELISM; max_tokens: 500",
        "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8",
    ],
)
def test_what_a_reader_needs_stays(text: str) -> None:
    assert redact(text, {"HOME": "/root", "USER": "root", "HOSTNAME": "localhost"}) == text


LONG = ["a", "a.", "a-b.", "0", ":", "ab:", "://", "a@", "token", "serial ", "key ", "GPU-0", "1."]


@pytest.mark.timeout(120)  # each took minutes where a pattern could be tried from every character
@pytest.mark.parametrize("part", LONG)
def test_a_long_line_takes_no_minutes(part: str) -> None:
    assert redact(part * 20_000, {})


def test_this_machine_is_not_named() -> None:
    node = platform.node()
    if len(node) < 2 or node == "localhost":
        pytest.skip("this machine has no name")
    assert node not in redact(f"{node} did not answer; {Path.home()}/x")
    assert f"{Path.home()}/" not in redact(f"{Path.home()}/x")


def test_data_keeps_its_form() -> None:
    data = {"a": [1, None, True, "x"], "b": {"c": ("/home/adalovelace/y", 2.5)}}
    assert redact(data, {}) == {"a": [1, None, True, "x"], "b": {"c": ["~/y", 2.5]}}


def test_markdown_is_not_broken_by_what_it_quotes() -> None:
    proof = Proof(name="OpenVINO", passed=False, cause="error", what="a | b\n</details><script>\nc")
    text = markdown(report(RTX_4090, proofs=[proof]))
    (row,) = (line for line in text.splitlines() if line.startswith("| OpenVINO"))
    assert row.count("|") - row.count("\\|") == 5
    assert "<script>" not in text
    assert text.count("</details>") == 1
