"""`ChatGPU` with a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_gpu import ChatGPU
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import Chat, imagined, plan
from langchain_gpu.planner.drive import DoesNotFitError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.models


def test_a_plan_places_the_model() -> None:
    gguf = resolve(SMOLLM2, kind="gguf", local_files_only=True).path
    chat = Chat(info=read_info(gguf), context=512, name=SMOLLM2)
    planned = plan([chat], imagined([], 2**34))
    model = ChatGPU(model=SMOLLM2, plan=planned, n_parallel=1, n_threads=1)
    assert model.context_length == 512
    assert model.devices[0].kind == "cpu"
    refused = ChatGPU(model=SMOLLM2, plan=replace(planned[SMOLLM2], decision="refused"))
    with pytest.raises(DoesNotFitError):
        _ = refused.context_length
