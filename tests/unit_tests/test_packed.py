"""Rows that lie end to end give what padded ones give, or are not taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from langchain_gpu.engine import embedder
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes import attention
from langchain_gpu.engine.runtimes import torch as torch_runtime
from langchain_gpu.engine.runtimes.attention import (
    Kernel,
    NotPackableError,
    Segments,
    by_row,
    flash_kernel,
    kernel_for,
    packed_attention,
)
from langchain_gpu.engine.runtimes.packed import PackedBatch, positions_of
from langchain_gpu.engine.runtimes.torch import TorchEncoder
from langchain_gpu.engine.runtimes.transfers import HostCopy
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.hardware.devices import Device
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.conftest import MINILM
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]

CPU = Device(kind="cpu", name="a processor", reason="the test says so", cores=2)
OTHER = Device(kind="cpu", name="another processor", reason="the test says so")
PACKABLE = [
    "bert",
    "bert-without-prompt",
    "roberta-cls",
    "xlm-roberta",
    "modernbert",
    "qwen3-last-token",
]
TEXTS = [
    "a",
    "",
    "The GPU is fast.",
    "naïve café 漢字 🙂",
    "token " * (WINDOW * 4),
    "slow memory of the gpu " * 4,
    *(f"{word} batch {'model is ' * (number % 11)}" for number, word in enumerate("abcdefgh" * 3)),
]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def encoder(path: str, layout: str = "packed", dtype: str = "float32") -> TorchEncoder:
    return TorchEncoder(Path(path), CPU, dtype=dtype, options={"attention": layout})


@cache
def kept(path: str, layout: str = "packed") -> TorchEncoder:
    """One that no test changes."""
    return encoder(path, layout)


def embed(model: TorchEncoder, texts: list[str], options: EmbedOptions | None = None) -> Vectors:
    """All in one batch."""
    tokens = model.tokenize(texts, options or EmbedOptions())
    rows = model.forward(model.prepare(tokens, np.arange(len(tokens.lengths))))()
    return model.merge(tokens, rows)


def least_cosine(left: Vectors, right: Vectors) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


@pytest.mark.parametrize("name", PACKABLE)
class TestParity:
    def test_with_sentence_transformers_one_by_one(self, tiny: Tiny, name: str) -> None:
        model = kept(tiny(name))
        peer = SentenceTransformer(tiny(name), device="cpu")
        theirs = np.stack([peer.encode([text], prompt="query: ")[0] for text in TEXTS])
        ours = embed(model, TEXTS, EmbedOptions(prompt="query: "))
        assert least_cosine(ours, theirs) >= 0.99999
        assert np.allclose(ours, theirs, atol=1e-5)

    def test_with_padded_rows(self, tiny: Tiny, name: str) -> None:
        prompt = "" if name == "bert-without-prompt" else "query: "  # not for windows
        for options in (EmbedOptions(), EmbedOptions(prompt=prompt, on_long="mean")):
            packed = embed(kept(tiny(name)), TEXTS, options)
            padded = embed(kept(tiny(name), "padded"), TEXTS, options)
            assert least_cosine(packed, padded) >= 0.99999

    def test_a_text_alone_and_in_a_batch(self, tiny: Tiny, name: str) -> None:
        model = kept(tiny(name))
        alone = np.concatenate([embed(model, [text]) for text in TEXTS])
        assert least_cosine(embed(model, TEXTS), alone) >= 0.99999

    def test_any_order_and_any_budget(self, tiny: Tiny, name: str) -> None:
        wanted = embed(kept(tiny(name)), TEXTS)
        order = np.random.default_rng(1).permutation(len(TEXTS))
        for budget in (1, 60):
            loaded = embedder.load(
                EmbedderConfig(
                    model=tiny(name),
                    device="cpu",
                    backend="torch",
                    dtype="float32",
                    max_batch_tokens=budget,
                    options={"attention": "packed"},
                )
            )
            rows = loaded.engine.run([TEXTS[row] for row in order], EmbedOptions())
            assert np.allclose(rows.vectors, wanted[order], atol=1e-5)
            assert rows.report.padded_tokens == rows.report.tokens

    def test_half_precision(self, tiny: Tiny, name: str) -> None:
        half = embed(encoder(tiny(name), dtype="bfloat16"), TEXTS)
        assert least_cosine(half, embed(kept(tiny(name)), TEXTS)) >= 0.99


def test_layers_with_a_local_window_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the window this model gives something else, and the proof sees that."""

    def forgetful(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        return packed_attention(*args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, forgetful)
    with pytest.raises(ValueError, match="packed rows give different results"):
        encoder(tiny("modernbert"))


def test_positions_that_count_from_the_padding_id_are_told(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_gpu.engine.runtimes.packed._counted_from", lambda _: None)
    with pytest.raises(ValueError, match="packed rows give different results"):
        encoder(tiny("xlm-roberta"))


@pytest.mark.parametrize("name", ["xlm-roberta", "bert", "qwen3-last-token"])
def test_a_pad_token_inside_a_text(tiny: Tiny, name: str) -> None:
    rows = [[7, 0, 0, 9, 3], [0, 8, 3], [11, 3], [9]]
    found = []
    for layout in ("packed", "padded"):
        model = kept(tiny(name), layout)
        found.append(model.forward(model.prepare(model.from_ids(rows), np.arange(4)))())
    assert np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "qwen3-last-token"])
def test_a_row_without_a_token_is_zero(tiny: Tiny, name: str) -> None:
    """Some tokenizers make nothing of an empty text; padded rows of nothing are zero too."""
    model = kept(tiny(name))
    tokens = model.from_ids([[7, 3], [9, 8, 3]])
    payload = type(tokens.payload)(tokens.payload.ids, np.array([0, 2, 2, 5]), "")
    with_empty = Tokenized(np.array([2, 0, 3, 0]), payload)
    found = model.forward(model.prepare(with_empty, np.array([2, 0, 1, 3])))()
    wanted = model.forward(model.prepare(tokens, np.array([1, 0])))()
    assert np.allclose(found[:2], wanted, atol=1e-6)
    assert not found[2:].any()


class TestChoice:
    def test_a_cpu_pads(self, tiny: Tiny) -> None:
        model = encoder(tiny("bert"), "auto")
        assert model.attention == "padded: no attention kernel takes rows end to end on cpu"
        assert model.rules.padded
        assert model.rules.in_flight == 1

    def test_attention_that_is_asked_for_is_used(self, tiny: Tiny) -> None:
        assert encoder(tiny("bert"), "padded").attention == "padded: asked for"
        packed = encoder(tiny("bert"), "packed")
        assert packed.attention == "packed (row by row)"
        assert not packed.rules.padded

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("mpnet", "MPNetModel has its own attention"),
            ("static", "prepares its texts in its own way"),
        ],
    )
    def test_what_cannot_be_packed(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, why: str
    ) -> None:
        with pytest.raises(ValueError, match=f"not possible here: .*{why}"):
            encoder(tiny(name))
        monkeypatch.setattr(torch_runtime, "kernel_for", lambda *_: Kernel("stand-in", flash))
        automatic = encoder(tiny(name), "auto")
        assert automatic.attention.startswith("padded: ")
        assert why in automatic.attention
        peer = SentenceTransformer(tiny(name), device="cpu")
        assert np.allclose(embed(automatic, TEXTS), peer.encode_document(TEXTS), atol=1e-5)

    def test_an_unknown_kind_of_attention_is_refused(self, tiny: Tiny) -> None:
        with pytest.raises(ValueError, match="'flash' is not one of auto, packed, padded"):
            encoder(tiny("bert"), "flash")

    def test_with_a_kernel_auto_packs(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (torch_runtime, attention):
            monkeypatch.setattr(module, "kernel_for", lambda *_: Kernel("stand-in", flash))
        model = encoder(tiny("qwen3-last-token"), "auto")
        assert model.attention == "packed (stand-in)"
        padded = embed(kept(tiny("qwen3-last-token"), "padded"), TEXTS)
        assert least_cosine(embed(model, TEXTS), padded) >= 0.99999

    def test_a_kernel_that_computes_something_else_is_not_taken(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def wrong(q: Any, k: Any, v: Any, segments: Segments) -> Any:
            return flash(q, k, v, segments).flip(0)

        for module in (torch_runtime, attention):
            monkeypatch.setattr(module, "kernel_for", lambda *_: Kernel("wrong", wrong))
        model = encoder(tiny("xlm-roberta"), "auto")
        assert model.attention.startswith("padded: packed rows give different results (cosine ")
        assert "batches are padded" in caplog.text
        peer = SentenceTransformer(tiny("xlm-roberta"), device="cpu")
        assert np.allclose(embed(model, TEXTS), peer.encode_document(TEXTS), atol=1e-5)

    def test_a_kernel_that_fails_is_not_taken(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def old_card(*_: Any) -> Any:
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")

        for module in (torch_runtime, attention):
            monkeypatch.setattr(module, "kernel_for", lambda *_: Kernel("new", old_card))
        model = encoder(tiny("bert"), "auto")
        assert model.attention == "padded: FlashAttention only supports Ampere GPUs or newer."

    def test_a_card_that_is_too_old_is_known_before(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = encoder(tiny("bert"), "auto")
        monkeypatch.setattr(torch_runtime, "kernel_for", lambda *_: Kernel("new", flash))
        card = Device(
            kind="cuda", name="Tesla T4", reason="the best", capability="7.5", dtype="float16"
        )
        monkeypatch.setattr(model, "_device", card)
        why = "padded: flash attention needs compute capability 8.0, and Tesla T4 has 7.5"
        assert model._layout() == (False, why)
        assert not caplog.text

    def test_memory_that_runs_out_in_the_proof_is_no_reason_to_pad(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        for module in (torch_runtime, attention):
            monkeypatch.setattr(module, "kernel_for", lambda *_: Kernel("new", full))
        with pytest.raises(torch.OutOfMemoryError):
            encoder(tiny("bert"), "auto")

    def test_another_device_decides_anew(self, tiny: Tiny) -> None:
        """As a fall-back does; what was built before the move is still computed."""
        model = encoder(tiny("modernbert"))
        tokens = model.tokenize(TEXTS, EmbedOptions())
        before = model.prepare(tokens, np.arange(len(TEXTS)))
        assert isinstance(before, PackedBatch)
        wanted = model.forward(before)()
        model.to(OTHER)
        assert model.attention.startswith("padded: ")
        assert model.rules.padded
        after = model.prepare(tokens, np.arange(len(TEXTS)))
        assert not isinstance(after, PackedBatch)
        assert np.allclose(model.forward(after)(), wanted, atol=1e-5)
        assert np.allclose(model.forward(before)(), wanted, atol=1e-5)


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
    """What a flash kernel computes, in its layout: [tokens, heads, width]."""
    assert q.shape[-1] == v.shape[-1]
    assert q.shape[-1] % 8 == 0
    assert int(segments.offsets.diff().max()) <= segments.longest
    query, key, value = (each.transpose(0, 1)[None] for each in (q, k, v))
    return by_row(query, key, value, segments)[0].transpose(0, 1)


class Layer(torch.nn.Module):
    is_causal = False


class TestAttention:
    """Against one attention over everything, with a mask that keeps the texts apart."""

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("window", [None, 1, 3, 100])
    @pytest.mark.parametrize("kernel", [None, Kernel("stand-in", flash)])
    def test_packed_attention_gives_what_dense_attention_gives(
        self, monkeypatch: pytest.MonkeyPatch, causal: Any, window: int | None, kernel: Any
    ) -> None:
        monkeypatch.setattr(attention, "kernel_for", lambda *_: kernel)
        lengths = torch.tensor([5, 1, 0, 9, 2])
        total = int(lengths.sum())
        made = torch.Generator().manual_seed(3)
        query = torch.randn(1, 6, total, 12, generator=made)
        key, value = torch.randn(2, 1, 2, total, 12, generator=made)  # three heads share one
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
        found, weights = packed_attention(
            Layer(),
            query,
            key,
            value,
            None,
            is_causal=causal,
            scaling=0.7,
            sliding_window=window,
            cu_seq_lens_q=offsets,
            max_length_q=9,
            dropout=0.0,
        )
        text = torch.repeat_interleave(torch.arange(5), lengths)
        distance = torch.arange(total)[None] - torch.arange(total)[:, None]
        seen = text[None] == text[:, None]
        seen &= distance.abs() < (total if window is None else window)
        seen &= distance <= (0 if causal else total)
        wanted = scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=0.7, enable_gqa=True
        )
        assert weights is None
        assert torch.allclose(found, wanted.transpose(1, 2), atol=1e-5)

    @pytest.mark.parametrize(
        ("extra", "match"),
        [
            ({"softcap": 30.0}, "needs softcap"),
            ({"position_bias": torch.zeros(1)}, "needs position_bias"),
            ({"cu_seq_lens_q": None}, "does not pass offsets on"),
        ],
    )
    def test_what_it_does_not_compute(self, extra: dict[str, Any], match: str) -> None:
        one = torch.zeros(1, 1, 4, 8)
        given: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 4]), "max_length_q": 4} | extra
        with pytest.raises(NotPackableError, match=match):
            packed_attention(Layer(), one, one, one, None, **given)

    def test_a_mask_of_the_models_own(self) -> None:
        one = torch.zeros(1, 1, 4, 8)
        with pytest.raises(NotPackableError, match="a mask of its own"):
            packed_attention(
                Layer(), one, one, one, one, cu_seq_lens_q=torch.tensor([0, 4]), max_length_q=4
            )

    @pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (64, 64), (127, 0)])
    def test_torch_takes_what_we_pass(self, window: tuple[int, int]) -> None:
        """No card here: tensors without contents go through the real function's checks."""
        kernel = flash_kernel()
        assert kernel is not None
        assert kernel.name == "varlen_attn"
        q = torch.empty(10, 6, 16, device="meta", dtype=torch.bfloat16)
        k = torch.empty(10, 2, 16, device="meta", dtype=torch.bfloat16)
        offsets = torch.empty(4, device="meta", dtype=torch.int32)
        assert kernel.run(q, k, k, Segments(offsets, 5, 0.25, window)).shape == q.shape

    @pytest.mark.parametrize("heads", [2, 6])
    def test_a_torch_that_is_not_told_of_groups_of_heads(
        self, monkeypatch: pytest.MonkeyPatch, heads: int
    ) -> None:
        def of_2_11(  # noqa: PLR0917 - its signature
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            cu_seq_q: torch.Tensor,
            cu_seq_k: torch.Tensor,
            max_q: int,
            max_k: int,
            *,
            return_aux: Any = None,
            scale: float | None = None,
            window_size: tuple[int, int] = (-1, -1),
        ) -> torch.Tensor:
            assert cu_seq_q is cu_seq_k
            assert (max_q, return_aux) == (max_k, None)
            return flash(query, key, value, Segments(cu_seq_q, max_q, scale or 0.0, window_size))

        monkeypatch.setattr(varlen, "varlen_attn", of_2_11)
        kernel = attention._torch_kernel()
        assert kernel is not None
        q, k = torch.randn(5, 6, 16), torch.randn(5, heads, 16)
        segments = Segments(torch.tensor([0, 2, 5], dtype=torch.int32), 3, 0.25, (1, 0))
        assert torch.equal(kernel.run(q, k, k, segments), flash(q, k, k, segments))

    def test_a_torch_that_knows_no_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def of_2_10(  # noqa: PLR0917 - its signature
            query: Any,
            key: Any,
            value: Any,
            cu_seq_q: Any,
            cu_seq_k: Any,
            max_q: int,
            max_k: int,
            is_causal: bool = False,  # noqa: FBT001, FBT002
            return_aux: Any = None,
        ) -> None: ...

        monkeypatch.setattr(varlen, "varlen_attn", of_2_10)
        assert attention._torch_kernel() is None

    def test_who_gets_the_kernel(self) -> None:
        assert kernel_for("cuda", torch.bfloat16) is flash_kernel()
        assert kernel_for("cuda", torch.float32) is None
        assert kernel_for("cpu", torch.bfloat16) is None


class TestLanding:
    def test_rows_are_read_after_the_copy(self) -> None:
        host = torch.zeros(2, 3)

        class Copied:
            def synchronize(self) -> None:
                host.fill_(7)

        assert (HostCopy(host, Copied())() == 7).all()

    def test_its_error_comes_through(self) -> None:
        class Failed:
            def synchronize(self) -> None:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        with pytest.raises(torch.OutOfMemoryError):
            HostCopy(torch.zeros(1, 1), Failed())()


@pytest.mark.parametrize(
    ("name", "positions"),
    [("bert", WINDOW), ("xlm-roberta", WINDOW + 1), ("modernbert", 64), ("qwen3-last-token", 64)],
)
def test_positions_a_model_has(tiny: Tiny, name: str, positions: int) -> None:
    """The tiny RoBERTa pads with 0, so it counts from 1 in a table of WINDOW + 2."""
    assert positions_of(kept(tiny(name))._model[0].model) == positions


def test_the_proof_stays_within_the_positions(tiny: Tiny) -> None:
    """A tokenizer may promise more than its model has."""
    model = kept(tiny("bert"))
    before = model._model.max_seq_length
    model._model.max_seq_length = 10 * WINDOW
    try:
        assert model._longest == WINDOW
        assert model._prove() is None
    finally:
        model._model.max_seq_length = before


def test_a_decoder_keeps_no_cache(tiny: Tiny) -> None:
    model = encoder(tiny("qwen3-last-token"), "padded")
    given: list[Any] = []
    layer = model._model[0].model.layers[0]
    layer.register_forward_pre_hook(
        lambda _module, _args, kwargs: given.append(kwargs["past_key_values"]), with_kwargs=True
    )
    embed(model, ["the gpu"])
    assert given == [None]


def test_nobody_measures_memory_on_a_cpu(tiny: Tiny) -> None:
    assert encoder(tiny("bert")).peak_bytes(64) is None


@pytest.mark.models
def test_the_real_model() -> None:
    path = str(resolve(MINILM).path)
    texts = [*TEXTS, "The memory of a card is what it computes with. " * 12]
    packed, padded = encoder(path), encoder(path, "padded")
    assert least_cosine(embed(packed, texts), embed(padded, texts)) >= 0.99999
