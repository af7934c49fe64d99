from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

from langchain_gpu import GPUEmbeddings, GPURerank
from langchain_gpu.engine import backends, embedder
from langchain_gpu.engine.checks import NonFiniteVectorError
from langchain_gpu.engine.encoder import Tokenized
from langchain_gpu.engine.report import Report, Rows
from langchain_gpu.engine.runtimes import torch as torch_runtime
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.events import BatchDone, Event, FallbackWarning, TruncationWarning
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError
from langchain_gpu.models.resolve import ModelNotFoundError
from tests.unit_tests.fake_encoder import CPU, GPU, FakeEncoder
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]


@pytest.fixture
def embeddings(tiny: Tiny) -> GPUEmbeddings:
    return GPUEmbeddings(model=tiny("bert"), dtype="float32")


def encode(tiny: Tiny, texts: list[str], **kwargs: Any) -> Any:
    return SentenceTransformer(tiny("bert"), device="cpu").encode_document(texts, **kwargs)


class TestConstruction:
    def test_loads_nothing(self) -> None:
        code = (
            "import sys; from langchain_gpu import GPUEmbeddings; GPUEmbeddings(model='nobody/x');"
            "print([m for m in ('torch', 'transformers', 'faiss', 'sentence_transformers')"
            " if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603
        assert done.stdout.decode().strip() == "[]"

    @pytest.mark.parametrize("kind", [GPUEmbeddings, GPURerank])
    def test_the_settings_have_a_json_schema(self, kind: type[BaseModel]) -> None:
        settings = kind.model_json_schema()["properties"]
        assert "model" in settings or "model_name" in settings
        assert "on_event" not in settings  # which JSON cannot say

    def test_names_of_the_class_it_replaces(self) -> None:
        assert GPUEmbeddings().model == "sentence-transformers/all-mpnet-base-v2"
        assert GPUEmbeddings(model_name="x/y").model == "x/y"  # type: ignore[call-arg]
        assert GPUEmbeddings(model="x/y").model_name == "x/y"
        GPUEmbeddings(
            model="x",
            cache_folder="c",
            model_kwargs={"device": "cpu"},
            encode_kwargs={"normalize_embeddings": False},
            query_encode_kwargs={"prompt_name": "query"},
            multi_process=False,
            show_progress=False,
        )

    def test_unknown_arguments_are_refused(self) -> None:
        with pytest.raises(ValueError, match="normalise"):
            GPUEmbeddings(model="x", normalise=True)  # type: ignore[call-arg]

    def test_an_unknown_model_lists_what_was_tried(self) -> None:
        with pytest.raises(ModelNotFoundError, match="nobody/nothing"):
            GPUEmbeddings(model="nobody/nothing").embed_query("a")

    def test_an_unknown_backend_lists_the_known(self, tiny: Tiny) -> None:
        wrong = GPUEmbeddings(model=tiny("bert"), model_kwargs={"backend": "tpu"})
        with pytest.raises(
            ValueError, match="unknown backend 'tpu' for embeddings; known: auto, .*openvino.*torch"
        ):
            wrong.embed_query("a")

    def test_remote_code_needs_a_commit(self) -> None:
        with pytest.raises(ValueError, match="pinned commit"):
            GPUEmbeddings(model="a/b", model_kwargs={"trust_remote_code": True}).embed_query("a")


class TestResults:
    def test_lists_of_python_floats(self, embeddings: GPUEmbeddings) -> None:
        (vector,) = embeddings.embed_documents(["the gpu"])
        assert {type(number) for number in vector} == {float}
        assert len(vector) == embeddings.dimension == 24
        assert {type(number) for number in embeddings.embed_query("the gpu")} == {float}

    def test_newlines_are_text(self, embeddings: GPUEmbeddings, tiny: Tiny) -> None:
        bpe_like = ["one\ntwo", "one two"]  # the same for this tokenizer, so look at what is passed
        seen: list[str] = []
        spy = embeddings._load().encoder
        original = spy.tokenize
        spy.tokenize = lambda items, options, **kw: (  # type: ignore[method-assign]
            seen.extend(items) or original(items, options, **kw)  # type: ignore[func-returns-value]
        )
        embeddings.embed_to_array(bpe_like)
        rewriting = embeddings.model_copy(update={"replace_newlines": True})
        rewriting.embed_to_array(bpe_like)
        assert seen == ["one\ntwo", "one two", "one two", "one two"]

    def test_a_generator_is_as_good_as_a_list(self, embeddings: GPUEmbeddings) -> None:
        texts = ["the gpu", "one"]
        from_generator = embeddings.embed_documents(text for text in texts)  # type: ignore[arg-type]
        assert from_generator == embeddings.embed_documents(texts)

    def test_nothing_to_embed(self, embeddings: GPUEmbeddings) -> None:
        assert embeddings.embed_documents([]) == []
        assert embeddings.embed_to_array([]).shape == (0, 24)
        assert embeddings.embed_with_report([]).report.items == 0
        assert list(embeddings.stream([])) == []

    def test_prompts_of_the_model_and_of_the_user(
        self, embeddings: GPUEmbeddings, tiny: Tiny
    ) -> None:
        theirs = SentenceTransformer(tiny("bert"), device="cpu")
        plain = embeddings.model_copy(update={"encode_kwargs": {"prompt": ""}})
        named = embeddings.model_copy(update={"encode_kwargs": {"prompt_name": "query"}})
        given = embeddings.model_copy(update={"query_encode_kwargs": {"prompt": "fast: "}})
        text = "the gpu"
        for ours, reference in [
            (embeddings.embed_documents([text])[0], theirs.encode_document([text])[0]),
            (embeddings.embed_query(text), theirs.encode_query([text])[0]),
            (plain.embed_query(text), theirs.encode([text])[0]),
            (named.embed_documents([text])[0], theirs.encode([text], prompt_name="query")[0]),
            (given.embed_query(text), theirs.encode([text], prompt="fast: ")[0]),
        ]:
            assert np.allclose(ours, reference, atol=1e-5)
        default: dict[str, Any] = {"default_prompt_name": "query"}
        told = GPUEmbeddings(model=tiny("bert"), dtype="float32", model_kwargs=default)
        theirs = SentenceTransformer(tiny("bert"), device="cpu", **default)
        with told:  # as HuggingFaceEmbeddings: named by the user, for documents too
            assert np.allclose(told.embed_query(text), theirs.encode([text])[0], atol=1e-5)
            assert np.allclose(told.embed_documents([text]), theirs.encode([text]), atol=1e-5)
        with pytest.raises(ValueError, match="no prompt named 'x'; it has: .*passage, query"):
            embeddings.model_copy(update={"encode_kwargs": {"prompt_name": "x"}}).embed_query("a")

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"truncate_dim": 8},
            {"truncate_dim": 8, "normalize_embeddings": True},
            {"precision": "ubinary"},
            {"batch_size": 2},
        ],
    )
    def test_encode_kwargs_mean_what_they_mean_there(
        self, embeddings: GPUEmbeddings, tiny: Tiny, kwargs: dict[str, Any]
    ) -> None:
        texts = ["the gpu", "one", "fast memory", "two"]
        ours = embeddings.model_copy(update={"encode_kwargs": kwargs}).embed_documents(texts)
        assert np.allclose(ours, encode(tiny, texts, **kwargs), atol=1e-5)

    def test_batch_size_is_a_limit(self, tiny: Tiny) -> None:
        report = (
            GPUEmbeddings(model=tiny("bert"), device="cpu", encode_kwargs={"batch_size": 3})
            .embed_with_report(["one"] * 10)
            .report
        )
        assert report.batches == {"cpu": 4}

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"batchsize": 3}, "unknown; known: .*batch_size"),
            ({"device": "cpu"}, "use the argument device="),
            ({"output_value": None}, "only sentence embeddings"),
            ({"batch_size": 0}, "'batch_size'\\] must be at least 1, not 0"),
            ({"precision": "int4"}, "not one of"),
        ],
    )
    def test_encode_kwargs_that_mean_nothing_are_refused(
        self, embeddings: GPUEmbeddings, kwargs: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(ValueError, match=match):
            embeddings.model_copy(update={"encode_kwargs": kwargs}).embed_query("a")

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"batch_size": "2"}, "'batch_size'\\] must be a whole number, not '2'"),
            ({"truncate_dim": 3.5}, "'truncate_dim'\\] must be a whole number, not 3.5"),
            ({"prompt": 3}, "'prompt'\\] must be a str, not 3"),
            ({"prompt_name": ["query"]}, "'prompt_name'\\] must be a str"),
        ],
    )
    def test_encode_kwargs_of_another_type_are_named(
        self, embeddings: GPUEmbeddings, kwargs: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(TypeError, match=match):
            embeddings.model_copy(update={"encode_kwargs": kwargs}).embed_query("a")

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            (
                {"torch_dtype": "float16"},
                r"\['torch_dtype'\] is unknown .* dtype= sets .*'model_kwargs': \{'torch_dtype': ",
            ),
            ({"normalize_embeddings": True}, "say encode_kwargs={'normalize_embeddings': ...}"),
            ({"max_seq_length": 9}, "say model_kwargs={'processor_kwargs': {'model_max_length'"),
            ({"model_kwargs": {"no": 1}}, r"model_kwargs\['model_kwargs'\]\['no'\] is unknown"),
        ],
    )
    def test_model_kwargs_that_nothing_takes_are_named(
        self, tiny: Tiny, kwargs: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(TypeError, match=match):
            GPUEmbeddings(model=tiny("bert"), model_kwargs=kwargs).embed_query("a")

    def test_dtype_can_be_set_in_either_place(self, tiny: Tiny) -> None:
        assert GPUEmbeddings(model=tiny("bert"), dtype="bfloat16").computed_in == "bfloat16"
        nested = {"model_kwargs": {"torch_dtype": torch.float16}}
        assert GPUEmbeddings(model=tiny("bert"), model_kwargs=nested).computed_in == "float16"
        automatic = GPUEmbeddings(model=tiny("bert"))
        assert automatic.computed_in == automatic.devices[0].dtype

    def test_queries_at_once_are_queries_one_by_one(self, embeddings: GPUEmbeddings) -> None:
        queries = ["the gpu", "one", "is it fast?"]
        alone = [embeddings.embed_query(query) for query in queries]
        assert np.allclose(embeddings.embed_queries_to_array(queries), alone, atol=1e-6)
        documents = embeddings.embed_to_array(queries)
        assert not np.allclose(documents, alone, atol=1e-3), "documents have another prompt"

    def test_progress_goes_to_stderr_and_ends_at_all(
        self, embeddings: GPUEmbeddings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = embeddings.model_copy(update={"show_progress": True})
        shown.embed_documents(["one"] * 50)
        captured = capsys.readouterr()
        assert "50/50" in captured.err
        assert captured.out == ""
        embeddings.embed_documents(["one"] * 50)
        assert capsys.readouterr().err == ""


class TestReports:
    def test_numbers_and_events(self, tiny: Tiny) -> None:
        events: list[Event] = []
        embeddings = GPUEmbeddings(model=tiny("bert"), on_event=events.append)
        rows = embeddings.embed_with_report(["one", "one two", "the gpu is fast"] * 100)
        assert rows.vectors.shape == (300, 24)
        assert rows.report.items == 300
        done = [event for event in events if isinstance(event, BatchDone)]
        assert sum(event.items for event in done) == 300
        assert sum(event.tokens for event in done) == rows.report.tokens

    def test_truncation_is_counted_and_warned_about_once(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"))
        texts = ["one", "two " * 100, "gpu " * 100]
        with pytest.warns(TruncationWarning, match="2 of 3 texts are longer than the 32") as caught:
            report = embeddings.embed_with_report(texts).report
        assert caught[0].filename == __file__
        assert report.truncated == (1, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert embeddings.embed_with_report(texts).report.truncated == (1, 2)

    def test_a_long_text_can_be_refused(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), on_long="error")
        with pytest.raises(TextTooLongError, match=f"text 1 is longer than .* {WINDOW} tokens"):
            embeddings.embed_documents(["one", "two " * 100])

    def test_bad_items_can_be_skipped(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("nan"), dtype="float32")
        texts: Any = ["one", None, "fast", "\ud800", "slow", b"two", "gpu"]
        rows = embeddings.embed_with_report(texts, on_error="skip")
        assert [each.index for each in rows.report.skipped] == [1, 3, 4, 5]
        assert "NoneType" in rows.report.skipped[0].reason
        assert rows.report.items == 7
        broken = np.isnan(rows.vectors).all(axis=1)
        assert broken.tolist() == [False, True, False, True, True, True, False]
        good = embeddings.embed_to_array(["one", "fast", "gpu"])
        assert np.allclose(rows.vectors[~broken], good, atol=1e-6)

    def test_skipping_needs_a_type_that_holds_nan(self, embeddings: GPUEmbeddings) -> None:
        small = embeddings.model_copy(update={"encode_kwargs": {"precision": "ubinary"}})
        with pytest.raises(ValueError, match="NaN, which ubinary cannot hold"):
            small.embed_with_report(["one"], on_error="skip")

    def test_rows_are_nan_where_every_text_is_skipped(self, embeddings: GPUEmbeddings) -> None:
        nothing: Any = [None, 3]
        rows = embeddings.embed_with_report(nothing, on_error="skip")
        assert rows.vectors.shape == (2, 24)
        assert len(rows.report.skipped) == 2

    def test_a_stream_is_lazy_and_equal(self, embeddings: GPUEmbeddings) -> None:
        drawn = 0

        def source() -> Iterator[str]:
            nonlocal drawn
            for number in range(50):
                drawn += 1
                yield f"one {number}"

        stream = embeddings.stream(source(), chunk=20)
        first = next(stream)
        assert drawn == 20
        vectors = np.concatenate([first.vectors, *(rows.vectors for rows in stream)])
        whole = embeddings.embed_to_array([f"one {number}" for number in range(50)])
        assert np.allclose(vectors, whole, atol=1e-6)

    def test_a_stream_has_results_of_some_seconds_work(
        self, embeddings: GPUEmbeddings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is under way is lost with an error: on a slow machine that must not be much."""
        rate = 100.0

        def embed(texts: Sequence[str], **_: object) -> Rows:
            report = Report(items=len(texts), seconds=len(texts) / rate)
            return Rows(np.zeros((len(texts), 24), np.float32), report)

        monkeypatch.setattr(GPUEmbeddings, "embed_with_report", lambda _, *a, **k: embed(*a, **k))
        stream = embeddings.stream(repeat("one"))
        assert [len(next(stream).vectors) for _ in range(3)] == [256, 512, 512]
        rate = 10.0
        assert [len(next(stream).vectors) for _ in range(4)] == [512, 256, 128, 128]
        rate = 1e6
        assert max(len(next(stream).vectors) for _ in range(20)) == 8192
        ranged = embeddings.model_copy(update={"encode_kwargs": {"precision": "uint8"}})
        first = next(ranged.stream(repeat("one")))
        assert len(first.vectors) == 8192, "these integers depend on what is embedded together"

    def test_a_source_that_fails_loses_nothing_of_what_was_read(
        self, embeddings: GPUEmbeddings
    ) -> None:
        def source() -> Iterator[str]:
            yield from ("one", "two", "the gpu")
            raise OSError("the disk is gone")

        stream = embeddings.stream(source(), chunk=2)
        whole = embeddings.embed_to_array(["one", "two", "the gpu"])
        assert np.allclose(next(stream).vectors, whole[:2], atol=1e-6)
        assert np.allclose(next(stream).vectors, whole[2:], atol=1e-6)
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)

    @pytest.mark.parametrize("texts", ["one text", b"one text"])
    def test_a_stream_of_one_text_is_no_stream_of_letters(
        self, embeddings: GPUEmbeddings, texts: Any
    ) -> None:
        with pytest.raises(TypeError, match=r"texts is a single \w+; pass a list: \[text\]"):
            next(embeddings.stream(texts))

    def test_a_policy_for_errors_that_there_is_not(self, embeddings: GPUEmbeddings) -> None:
        policy: Any = "raises"
        with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', not 'raises'"):
            embeddings.embed_with_report(["one"], on_error=policy)
        with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', not 'raises'"):
            next(embeddings.stream([], on_error=policy))

    def test_a_stream_of_chunks_of_no_size(self, embeddings: GPUEmbeddings) -> None:
        with pytest.raises(ValueError, match="chunk must be at least 1, not 0"):
            next(embeddings.stream(["one"], chunk=0))
        with pytest.raises(TypeError, match="chunk must be a whole number, not '3'"):
            next(embeddings.stream(["one"], chunk="3"))  # type: ignore[arg-type]

    def test_a_bad_item_of_a_stream_is_placed(self, embeddings: GPUEmbeddings) -> None:
        texts: Any = ["one"] * 25 + [None]
        with pytest.raises(TypeError, match="text 5 is NoneType") as caught:
            list(embeddings.stream(texts, chunk=20))
        assert caught.value.__notes__ == ["in the chunk that starts at text 20 of the stream"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "match"),
        [
            (["one", None], "text 1 is NoneType, not str"),
            (["one", 3], "text 1 is int"),
            ([b"one"], r"text 0 is bytes, not str \(decode it first\)"),
            ("one", r"texts is a single str; pass a list"),
            (None, "texts is NoneType"),
            (3, "texts is int"),
        ],
    )
    def test_what_is_not_a_list_of_texts_is_refused(
        self, embeddings: GPUEmbeddings, texts: Any, match: str
    ) -> None:
        with pytest.raises(TypeError, match=match):
            embeddings.embed_documents(texts)

    def test_a_query_that_is_not_a_text_is_refused(self, embeddings: GPUEmbeddings) -> None:
        with pytest.raises(TypeError, match="text 0 is NoneType"):
            embeddings.embed_query(None)  # type: ignore[arg-type]

    def test_a_lone_surrogate_is_named(self, embeddings: GPUEmbeddings) -> None:
        with pytest.raises(ValueError, match="text 1 holds a lone surrogate at character 2"):
            embeddings.embed_documents(["one", "ab\ud800"])

    @pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "a\x00b", "\u200b"])
    def test_odd_but_good(self, embeddings: GPUEmbeddings, tiny: Tiny, text: str) -> None:
        assert np.allclose(embeddings.embed_documents([text]), encode(tiny, [text]), atol=1e-5)

    def test_a_text_of_ten_megabytes_is_cut_with_a_warning(self, embeddings: GPUEmbeddings) -> None:
        with pytest.warns(TruncationWarning, match="1 of 1"):
            vector = embeddings.embed_query("the gpu is fast " * 650_000)
        assert np.isfinite(vector).all()

    def test_a_hundred_thousand_tiny_texts(self, embeddings: GPUEmbeddings) -> None:
        letters = [chr(97 + number % 26) for number in range(100_000)]
        rows = embeddings.embed_with_report(letters)
        alphabet = embeddings.embed_to_array(letters[:26])
        assert np.allclose(rows.vectors, np.resize(alphabet, rows.vectors.shape), atol=1e-5)
        assert rows.report.tokens == 300_000

    def test_a_model_that_breaks_names_the_text(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("nan"), dtype="float32")
        with pytest.raises(NonFiniteVectorError, match="for text 1 .1 such texts.*try dtype"):
            embeddings.embed_documents(["fast", "slow"])
        assert np.isfinite(embeddings.embed_query("fast")).all()


class TestConcurrency:
    def test_async_is_sync(self, embeddings: GPUEmbeddings) -> None:
        async def both() -> tuple[list[list[float]], list[float]]:
            documents = embeddings.aembed_documents(["the gpu", "one"])
            return await documents, await embeddings.aembed_query("one")

        documents, query = asyncio.run(both())
        assert np.allclose(documents, embeddings.embed_documents(["the gpu", "one"]), atol=1e-6)
        assert np.allclose(query, embeddings.embed_query("one"), atol=1e-6)

    def test_many_threads_load_once_and_never_mix(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), dtype="float32")
        texts = [f"{word} gpu {number}" for number, word in enumerate(["one", "two", "the"] * 40)]
        with ThreadPoolExecutor(16) as pool:
            vectors = list(pool.map(embeddings.embed_query, texts))
        alone = [embeddings.embed_query(text) for text in texts]
        assert np.allclose(vectors, alone, atol=1e-6)

    def test_copies_and_pickles_load_their_own(self, embeddings: GPUEmbeddings) -> None:
        vector = embeddings.embed_query("one")
        for other in (copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):  # noqa: S301
            assert other._loaded.keeper.loaded is None
            assert np.allclose(other.embed_query("one"), vector, atol=1e-6)

    def test_a_copy_with_other_settings_loads_for_itself(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), dtype="float32")
        embeddings.embed_query("one")
        same = embeddings.model_copy(update={"encode_kwargs": {"batch_size": 2}})
        other = embeddings.model_copy(update={"dtype": "bfloat16"})
        assert (same.computed_in, other.computed_in) == ("float32", "bfloat16")
        assert same._loaded is embeddings._loaded
        assert other._loaded is not embeddings._loaded
        assert embeddings.computed_in == "float32"
        assert sum(same.embed_with_report(["one"] * 10).report.batches.values()) == 5


class TestDevices:
    def test_closing_frees_and_the_next_use_loads(self, tiny: Tiny) -> None:
        loaded = embeddings = GPUEmbeddings(model=tiny("bert"))
        with loaded:
            vector = embeddings.embed_query("one")
            assert embeddings._loaded.keeper.loaded is not None
        assert loaded._loaded.keeper.loaded is None
        assert embeddings.embed_query("one") == vector
        embeddings.close()
        embeddings.close()

    def test_a_device_that_is_missing(self, tiny: Tiny) -> None:
        if torch.cuda.is_available():
            pytest.skip("this machine has the device that is to be missing")
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cuda")
        with pytest.warns(FallbackWarning, match="embedding runs on cpu, not cuda"):
            embeddings.embed_query("one")
        assert "'cuda' cannot be used" in embeddings.devices[0].reason
        strict = GPUEmbeddings(model=tiny("bert"), device="cuda", fallback="error")
        with pytest.raises(DeviceNotFoundError):
            strict.embed_query("one")

    def test_devices_have_reasons(self, embeddings: GPUEmbeddings) -> None:
        (device,) = embeddings.devices
        assert device.reason

    def test_two_places_that_disagree(self, tiny: Tiny) -> None:
        wrong = GPUEmbeddings(model=tiny("bert"), device="cpu", model_kwargs={"device": "cuda"})
        with pytest.raises(ValueError, match="disagree"):
            wrong.embed_query("one")

    @pytest.mark.parametrize(
        "given",
        [
            {"device": torch.device("cpu")},
            {"device": [torch.device("cpu")]},
            {"model_kwargs": {"device": torch.device("cpu")}},
            {"device": "cpu", "model_kwargs": {"device": torch.device("cpu")}},
        ],
    )
    def test_a_device_of_torch_is_a_name(self, tiny: Tiny, given: dict[str, Any]) -> None:
        with GPUEmbeddings(model=tiny("bert"), **given) as embeddings:
            assert [str(device) for device in embeddings.devices] == ["cpu"]

    def test_a_device_that_is_not_a_name(self, tiny: Tiny) -> None:
        wrong = GPUEmbeddings(model=tiny("bert"), model_kwargs={"device": 0.5})
        with pytest.raises(TypeError, match=r"model_kwargs\['device'\] must be a name.*not 0.5"):
            wrong.embed_query("one")

    @pytest.mark.parametrize(("number", "name"), [(0, "cuda:0"), (1, "cuda:1"), (-1, "cpu")])
    def test_a_number_of_a_device_is_answered_with_its_name(self, number: Any, name: str) -> None:
        for given in (number, [number]):
            with pytest.raises(ValueError, match=f"'{name}' instead of {number}"):
                GPUEmbeddings(model="any", device=given)
        wrong = GPUEmbeddings(model="any", model_kwargs={"device": number})
        with pytest.raises(ValueError, match=f"'{name}' instead of {number}"):
            wrong.embed_query("one")

    def test_a_model_that_does_not_fit_is_loaded_on_the_cpu(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The card is a fake; what it raises is what a full card raises."""
        card = Device(kind="cuda", index=0, name="small", reason="fake", dtype="float16")
        cpu = Device(kind="cpu", name="cpu", reason="fake")
        monkeypatch.setattr(
            "langchain_gpu.engine.embedder.select_device",
            lambda name: cpu if name == "cpu" else card,
        )
        move = torch_runtime.TorchEncoder.to

        def to(self: torch_runtime.TorchEncoder, device: Device) -> None:
            if device.kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            move(self, device)

        monkeypatch.setattr(torch_runtime.TorchEncoder, "to", to)
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cuda:0")
        with pytest.warns(FallbackWarning, match=r"fit: CUDA out of memory.*; after close\(\)"):
            embeddings.embed_query("one")
        assert [str(device) for device in embeddings.devices] == ["cpu"]
        strict = GPUEmbeddings(model=tiny("bert"), device="cuda:0", fallback="error")
        with pytest.raises(torch.OutOfMemoryError):
            strict.embed_query("one")

    def test_a_model_that_left_a_full_card_comes_back_after_close(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Texts(FakeEncoder):
            """Takes texts, a token a character."""

            prompts: ClassVar[dict[str, str]] = {}
            default_prompt_name = None
            details = ""

            def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
                return super().tokenize([len(item) for item in items], options, start=start)

        room = {str(GPU): 60}
        monkeypatch.setattr(
            backends, "create", lambda _, device: (Texts(room, device), "the test says so")
        )
        monkeypatch.setattr(embedder, "select_device", {"cpu": CPU, "cuda:0": GPU}.get)
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cuda:0")
        with pytest.warns(FallbackWarning, match=r"after close\(\), the next use tries cuda:0"):
            embeddings.embed_query("x" * 90)
        assert embeddings.devices == [CPU]
        room.clear()
        assert embeddings.embed_query("x" * 90)[0] == 90
        assert embeddings.devices == [CPU], "while it is loaded it stays"
        embeddings.close()
        assert embeddings.embed_query("x" * 90)[0] == 90
        assert embeddings.devices == [GPU]
