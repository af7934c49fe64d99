"""LangChain's own suites, in process, on a real model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_gpu import GPUEmbeddings
from tests.unit_tests.conftest import MINILM


class RealModel:
    """What both suites ask for."""

    @property
    def embeddings_class(self) -> type[GPUEmbeddings]:
        return GPUEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": MINILM}


class TestUnit(RealModel, EmbeddingsUnitTests):
    pass


@pytest.mark.models
class TestIntegration(RealModel, EmbeddingsIntegrationTests):
    pass
