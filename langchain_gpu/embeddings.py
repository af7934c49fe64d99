"""`GPUEmbeddings`: LangChain embeddings that fill the device they run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_gpu.encoder_models.embedding import RunsEmbedder
from langchain_gpu.engine.checks import as_list, check_buffer, check_on_error, iterate
from langchain_gpu.engine.chunks import LARGEST, Pace, chunks
from langchain_gpu.engine.report import Rows
from langchain_gpu.engine.skipping import spread_rows, texts_among
from langchain_gpu.hardware.devices import Device
from langchain_gpu.utils.integers import at_least_one

# Texts that are embedded between two writes into a buffer of another precision.
_STRETCH = 65536


class GPUEmbeddings(RunsEmbedder, Embeddings):
    """Embed texts on the GPU, or on the CPU if there is none, and say which was chosen and why.

    A drop-in for `HuggingFaceEmbeddings`: the same names and the same default model. The vectors
    differ in three ways: `dtype="auto"` computes in half precision where the device is fast at it,
    newlines are kept, and the model's own prompts for queries and documents are applied. For the
    vectors of `HuggingFaceEmbeddings` (cosine at least 0.99999) use `dtype="float32"`,
    `replace_newlines=True` and `encode_kwargs={"prompt": ""}`.

    Texts are sorted by length and batched by tokens; when GPU memory runs out, the batch shrinks
    and the work goes on.

    Setup:
        `pip install "langchain-gpu[local]"`

    Key arguments (docs/settings.md has all):
        model: Folder, name of an installed model package, or name on the hub (alias `model_name`).
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"`, `"cpu"`, or a list of
            them to share the work.
        dtype: What the model computes in: `"auto"` uses what is fast and safe on the device.
        base_url: A server that computes the vectors, instead of a model here: Ollama, one that
            speaks the OpenAI form (vLLM, TEI, infinity, OpenLLM, NIM, llama-server), or, with
            `backend="triton"`, a Triton Inference Server (`"grpc://host:8001"`).
        on_long: What happens to texts beyond the model's window: `"truncate"` (counted, and warned
            about once), `"mean"` (all windows, averaged; refused with a prompt where the model
            leaves prompts out of its vectors) or `"error"`.
        fallback: `"cpu"` continues there, with a warning, when a device is missing or too small;
            `"error"` raises.

    Instantiate and use:
        ```python
        from langchain_gpu import GPUEmbeddings

        embeddings = GPUEmbeddings(model="sentence-transformers/all-MiniLM-L6-v2")
        vector = embeddings.embed_query("What is a token budget?")  # list of 384 floats
        vectors = embeddings.embed_documents(["one text", "another"])
        rows = embeddings.embed_with_report(["one text", "another"])
        rows.vectors.shape, rows.report.padding  # ((2, 384), 1.0)
        ```

    Async:
        ```python
        vectors = await embeddings.aembed_documents(["one text", "another"])
        ```

    Constructing it loads nothing; the first use does. It is safe to use from several threads.
    """

    @property
    def devices(self) -> list[Device]:
        """Where the model runs, each with the reason. Loads the model."""
        return self._load().engine.devices

    @property
    def dimension(self) -> int:
        """Width of a document's vector, as it is returned. Loads the model."""
        return self._call("document").width(self._load().engine.dimension)

    @property
    def window(self) -> int | None:
        """Tokens a text may have, special tokens included. Loads the model."""
        return self._load().encoder.window

    @property
    def computed_in(self) -> str:
        """The dtype that `dtype="auto"` came to. Loads the model."""
        return self._load().encoder.dtype

    @property
    def backend_reason(self) -> str:
        """Which library runs the model, and why. Loads the model."""
        return self._load().reason

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, as documents. Returns one list of `dimension` floats per text.

        Raises:
            TypeError: An item is not a string; the message has its position.
            ValueError: A text cannot be embedded; the same.
        """
        documents = as_list(texts)
        if not documents:
            return []
        vectors: list[list[float]] = self._embed(documents, "document")[0].tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed one text, as a query. Returns `dimension` floats. Raises as `embed_documents`."""
        vector: list[float] = self._embed([text], "query")[0][0].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what `embed_documents` does; small calls of many tasks share forward passes."""
        documents = as_list(texts)
        if not documents:
            return []
        vectors: list[list[float]] = (await self._aembed(documents, "document")).tolist()
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does; calls of many tasks share forward passes."""
        vector: list[float] = (await self._aembed([text], "query"))[0].tolist()
        return vector

    def embed_to_array(
        self, texts: Sequence[str], *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Embed texts, as documents, into one array of shape (len(texts), dimension).

        A list of floats takes eight times the memory, and making it most of the time: prefer this
        wherever an array will do.

        Args:
            texts: What to embed.
            out: An array of that shape, in the dtype of `precision`, to write into, for example a
                `numpy.memmap`; it is returned.

        Raises:
            TypeError: As `embed_documents`; or `out` is not an array.
            ValueError: As `embed_documents`; or `out` has another shape or dtype, or is read-only.
        """
        items = as_list(texts)
        if out is None:
            return self._embed(items, "document")[0]
        call = self._call("document")
        check_buffer(out, (len(items), self.dimension), call.dtype)
        if call.plain:
            return self._embed(items, "document", out=out)[0]
        # The integers of `encode_kwargs` have ranges that all vectors of a call share.
        stretch = _STRETCH if call.kwargs.row_by_row else max(len(items), 1)
        for start in range(0, len(items), stretch):
            part = items[start : start + stretch]
            try:
                out[start : start + len(part)] = self._embed(part, "document")[0]
            except Exception as error:
                if start:
                    error.add_note(f"in the part of the texts that starts at text {start}")
                raise
        return out

    def embed_tokens(
        self, input_ids: Sequence[Sequence[int] | NDArray[np.integer[Any]]]
    ) -> NDArray[Any]:
        """Embed rows of token ids, special tokens included, into an array (rows, dimension).

        For callers who tokenize themselves. No prompt is added and nothing is cut off.

        Raises:
            TypeError: A row holds something else than whole numbers; the message has its position.
            ValueError: A row is empty, longer than the window or holds an unknown id; or the back
                end takes texts only.
        """
        call = self._call("document")
        items: list[Any] = list(input_ids)
        with self._use() as embedder:
            call.width(embedder.engine.dimension)  # raises before anything is computed
            read = embedder.encoder.from_ids
            rows = embedder.engine.run(
                items,
                max_items=call.kwargs.batch_size,
                tokenize=lambda part, start: read(part, start=start),
            )
            return self._finish(rows, call, embedder, check=True)

    def embed_queries_to_array(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed many texts at once, as queries, into one array of shape (len(texts), dimension)."""
        return self._embed(as_list(texts), "query")[0]

    def embed_with_report(
        self, texts: Sequence[str], *, on_error: Literal["raise", "skip"] = "raise"
    ) -> Rows:
        """Embed texts, as documents, and say what it took.

        Args:
            texts: What to embed.
            on_error: `"skip"` lists items that cannot be embedded in the report and gives them a
                row of NaN: what is not a string, what is too long with `on_long="error"`, what a
                server refuses; `"raise"` raises as `embed_documents`.

        Raises:
            ValueError: As `embed_documents`; or `on_error` is neither.
        """
        items = as_list(texts)
        check_on_error(on_error)
        if on_error == "raise":
            return Rows(*self._embed(items, "document", merge=False))
        call = self._call("document")
        if call.precision not in ("float32", "float16"):
            raise ValueError(
                f"on_error='skip' marks rows with NaN, which {call.precision} cannot hold"
            )
        places, skipped = texts_among(items)
        texts = [items[place] for place in places]
        rows = Rows(*self._embed(texts, "document", merge=False, skip=True))
        return spread_rows(rows, places, skipped)

    def stream(
        self,
        texts: Iterable[str],
        *,
        chunk: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Rows]:
        """Embed an iterable of any length, as documents, in bounded memory.

        Args:
            texts: Read lazily, `chunk` texts at a time. Where reading fails, what was read before
                is embedded first.
            chunk: Texts per result. An error or Ctrl-C costs the work on one, so None makes a
                result of some ten seconds' work: 256 texts at first, 8,192 at most.
            on_error: As in `embed_with_report`. Positions count from the start of the chunk.

        Yields:
            Rows in the order of the texts, each with a report of its own.
        """
        check_on_error(on_error)
        if chunk is None and self._call("document").kwargs.row_by_row:
            pace = Pace()
        else:
            size = LARGEST if chunk is None else at_least_one("chunk", chunk)
            pace = Pace(size, fixed=True)
        start = 0
        for group in chunks(iterate(texts), pace):
            try:
                rows = self.embed_with_report(group, on_error=on_error)
            except Exception as error:  # a server's too, which names a text of the chunk
                error.add_note(f"in the chunk that starts at text {start} of the stream")
                raise
            yield rows
            start += len(group)
            pace.after(rows.report.seconds)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        with self._use() as embedder:
            return embedder.encoder.count_tokens(as_list(texts))
