"""One file -> its text as Documents."""

from __future__ import annotations

import codecs
import io
import os
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_gpu.loaders.structured import csv_rows, json_lines, json_text
from langchain_gpu.utils.extras import require

Part = tuple[str, dict[str, Any]]  # a text, and what it adds to the file's metadata

# The longer mark first: UTF-32 LE begins with the mark of UTF-16 LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")


class LoadError(ValueError):
    """A file could not be read; the message says why."""


def load_file(path: str | os.PathLike[str], *, data: bytes | None = None) -> list[Document]:
    """Read one file into Documents with `metadata["source"]`.

    PDF gives one Document per page (`page`, from 1), CSV and JSON Lines one per row (`row`, from 1,
    headings not counted), everything else one. HTML becomes text with `#` headings, JSON becomes
    `path: value` lines, CSV `column: value` lines. Text is UTF-8, or what a byte-order mark or
    Python's coding line says; bytes that are no UTF-8 are read as cp1252, and then
    `metadata["encoding"]` says so. A file without text gives an empty list.

    Args:
        path: The file.
        data: Its bytes, where they were read already.

    Raises:
        LoadError: The file cannot be read: no permission, binary, damaged, encrypted, or a PDF
            that holds pictures and no text.
    """
    file = Path(path)
    try:
        content = file.read_bytes() if data is None else data
        parts = list(_READERS.get(file.suffix.lower(), _plain)(content)) if content else []
    except ImportError:
        raise  # a missing extra is not the file's fault
    except Exception as error:  # damaged files make parsers raise anything
        raise LoadError(reason(error)) from error
    return [
        Document(_storable(text), metadata={"source": source_name(file), **extra})
        for text, extra in parts
        if text.strip()
    ]


def source_name(path: Path) -> str:
    """Return the absolute path as text that can be stored: bytes that are no UTF-8 as escapes."""
    return _storable(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links


def reason(error: Exception) -> str:
    """Put an error of reading into one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = " ".join(str(error).split())
    return text if type(error) in {LoadError, ValueError} else f"{type(error).__name__}: {text}"


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of `data` with its encoding, or raise LoadError where it is binary."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _newlines(data.decode(encoding)), encoding
    if b"\0" in data[:8192]:  # the rule of git and grep
        raise LoadError("binary, not text (or UTF-16 without a byte-order mark)")
    try:
        return _newlines(data.decode()), "utf-8"
    except UnicodeDecodeError as error:
        # cp1252 holds all of Latin-1's letters, and not every byte: noise rarely passes.
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise LoadError("binary, not text") from error
        if len(_CONTROL.findall(text)) * 100 > len(text):
            raise LoadError("binary, not text") from error
        return _newlines(text), "cp1252"


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _storable(text: str) -> str:
    """Replace lone surrogates (JSON escapes and PDF fonts make them): no file can hold them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _note(encoding: str) -> dict[str, Any]:
    return {"encoding": encoding} if encoding == "cp1252" else {}


def _plain(data: bytes) -> Iterator[Part]:
    text, encoding = decode(data)
    yield text, _note(encoding)


def _python(data: bytes) -> Iterator[Part]:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:  # a coding line that lies
        encoding = "utf-8"
    if encoding in {"utf-8", "utf-8-sig"}:
        yield from _plain(data)
    else:
        yield _newlines(data.decode(encoding)), {}


def _json(data: bytes) -> Iterator[Part]:
    text, encoding = decode(data)
    yield json_text(text), _note(encoding)


def _json_lines(data: bytes) -> Iterator[Part]:
    text, encoding = decode(data)
    for row, record in json_lines(text):
        yield record, {"row": row, **_note(encoding)}


def _csv(data: bytes) -> Iterator[Part]:
    text, encoding = decode(data)
    for row, record in csv_rows(text):
        yield record, {"row": row, **_note(encoding)}


def _html(data: bytes) -> Iterator[Part]:
    from langchain_gpu.loaders.html import html_text

    if b"\0" in data[:8192] and not data.startswith(tuple(mark for mark, _ in _MARKS)):
        raise LoadError("binary, not HTML")
    yield html_text(data), {}


def _pdf(data: bytes) -> Iterator[Part]:
    reader = require("pypdf", extra="cli").PdfReader(io.BytesIO(data))
    # Many PDFs are encrypted with an empty password, only to forbid printing.
    if reader.is_encrypted and not reader.decrypt(""):
        raise LoadError("encrypted: save it without its password first")
    pages = [page.extract_text() for page in reader.pages]
    if not any(text.strip() for text in pages):
        raise LoadError("no text in it, only pictures: run OCR on it first")
    yield from ((text, {"page": number}) for number, text in enumerate(pages, start=1))


_READERS: dict[str, Callable[[bytes], Iterator[Part]]] = {
    ".md": _plain,
    ".markdown": _plain,
    ".txt": _plain,
    ".text": _plain,
    ".rst": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".py": _python,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
}
SUFFIXES = frozenset(_READERS)
