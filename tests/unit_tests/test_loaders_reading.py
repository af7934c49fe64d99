"""Each file type becomes text, each damaged file a reason."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pypdf
import pytest
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from langchain_gpu.loaders import LoadError, load_file


def load(path: Path, data: bytes | str) -> list[str]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    documents = load_file(path)
    assert all(document.metadata["source"] == str(path) for document in documents)
    return [document.page_content for document in documents]


def pdf(*pages: str, lock: str | None = None) -> bytes:
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
    if lock is not None:
        writer.encrypt(lock, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("naïve café".encode(), None),
        ("naïve café".encode("utf-8-sig"), None),
        ("naïve café".encode("utf-16"), None),
        (b"\xfe\xff" + "naïve café".encode("utf-16-be"), None),
        ("naïve café".encode("utf-32"), None),
        ("naïve café".encode("latin-1"), "cp1252"),
    ],
)
def test_text_in_its_encoding(tmp_path: Path, data: bytes, encoding: str | None) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    (document,) = load_file(path)
    assert document.page_content == "naïve café"
    assert document.metadata.get("encoding") == encoding


def test_line_ends_become_newlines(tmp_path: Path) -> None:
    assert load(tmp_path / "a.md", b"# A\r\n\r\nb\rc\n") == ["# A\n\nb\nc\n"]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html", "a.pdf", "a.json", "a.csv"])
def test_an_empty_file_gives_nothing(tmp_path: Path, name: str) -> None:
    assert load(tmp_path / name, b"") == []


def test_white_space_gives_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "a.txt", " \n\t\n") == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        bytes(range(1, 256)) * 3,
        "no mark".encode("utf-16-le"),
        b"\xff\xfe\xff",  # the mark of UTF-16, then half a character
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".py"])
def test_a_binary_file_is_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    with pytest.raises(LoadError):
        load(tmp_path / f"a{suffix}", data)


def test_binary_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^binary, not text"):
        load(tmp_path / "a.txt", b"\x7fELF\x00\x00")


def test_python_obeys_its_coding_line(tmp_path: Path) -> None:
    source = "# -*- coding: koi8-r -*-\nname = 'мир'\n"
    assert load(tmp_path / "a.py", source.encode("koi8-r")) == [source]
    lie = b"# -*- coding: no-such-thing -*-\nx = 1\n"
    assert load(tmp_path / "b.py", lie) == [lie.decode()]


def test_html_keeps_what_a_reader_sees(tmp_path: Path) -> None:
    page = """<html><head><title>Guide</title><style>p {}</style></head><body>
    <!-- hidden --><script>var x;</script>
    <h1>Set <em>up</em></h1><p>Take the <b>big</b>
       hammer &amp; nail.</p><ul><li><p>one</p></li><li>two</li></ul>
    <table><tr><th>k</th><td>v</td></tr></table>
    <pre>def f():
    return 1
 x</pre></body></html>"""
    (text,) = load(tmp_path / "a.html", page)
    assert text == (
        "Guide\n\n# Set up\n\nTake the big hammer & nail.\n\n- one\n\n- two\n\nk | v |\n\n"
        "def f():\n    return 1\n x"
    )


def test_html_obeys_its_meta_charset(tmp_path: Path) -> None:
    page = '<meta charset="windows-1251"><p>мир</p>'.encode("windows-1251")
    assert load(tmp_path / "a.htm", page) == ["мир"]


def test_html_may_be_broken_and_deep(tmp_path: Path) -> None:
    (text,) = load(tmp_path / "a.html", "<div>" * 3000 + "deep <p>and <b>open")
    assert text == "deep\n\nand open"


def test_pdf_gives_a_document_per_page(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("first page", "", "third page"))
    documents = load_file(path)
    assert [(d.page_content.strip(), d.metadata["page"]) for d in documents] == [
        ("first page", 1),
        ("third page", 3),
    ]


def test_pdf_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="encrypted"):
        load(tmp_path / "locked.pdf", pdf("secret", lock="x"))
    with pytest.raises(LoadError, match="OCR"):
        load(tmp_path / "scan.pdf", pdf("", ""))
    for damaged in (b"%PDF-1.7 nothing", b"<html>404</html>", pdf("a")[:200], os.urandom(500)):
        with pytest.raises(LoadError):
            load(tmp_path / "damaged.pdf", damaged)


def test_pdf_with_an_empty_password_is_read(tmp_path: Path) -> None:
    assert load(tmp_path / "a.pdf", pdf("open to all", lock="")) == ["open to all"]


def test_json_becomes_lines_that_say_where_they_belong(tmp_path: Path) -> None:
    value = {"name": "Ann", "tags": ["a", 1, None], "jobs": [{"at": "X"}, {"at": "Y"}], "none": {}}
    (text,) = load(tmp_path / "a.json", json.dumps(value))
    assert text == "name: Ann\ntags: a, 1, null\njobs[0].at: X\n\njobs[1].at: Y\n\nnone: {}"


def test_json_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="line 1 column 2"):
        load(tmp_path / "a.json", "{oops}")
    with pytest.raises(LoadError, match="nested too deeply"):
        load(tmp_path / "a.json", "[" * 100_000)
    with pytest.raises(LoadError, match="line 2 is not valid JSON"):
        load(tmp_path / "a.jsonl", '{"a": 1}\n{"a"}\n')


def test_json_lone_surrogates_become_storable(tmp_path: Path) -> None:
    (text,) = load(tmp_path / "a.json", '{"a": "x\\ud800y"}')
    assert text.encode() == rb"a: x\ud800y"


def test_json_lines_give_a_document_per_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "line\u2028sep"}\n\n{"a": 2}\n')
    documents = load_file(path)
    assert [(d.page_content, d.metadata["row"]) for d in documents] == [
        ("a: line\u2028sep", 1),
        ("a: 2", 3),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_gives_a_document_per_row(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    lines = [
        ["city", "note", ""],
        ["Rome", '"two\nlines"', "z"],
        ["", "", ""],
        ["Oslo", "", "", "4"],
    ]
    path.write_text("\n".join(delimiter.join(line) for line in lines))
    documents = load_file(path)
    assert [(d.page_content, d.metadata["row"]) for d in documents] == [
        ("city: Rome\nnote: two\nlines\ncolumn 3: z", 1),
        ("city: Oslo\ncolumn 4: 4", 3),
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\v", "\f", "\x1c"])
def test_csv_ends_a_row_where_its_line_ends(tmp_path: Path, mark: str) -> None:
    texts = load(tmp_path / "a.csv", f"id,text\n1,first{mark}second\n2,x")
    assert texts == [f"id: 1\ntext: first{mark}second", "id: 2\ntext: x"]


def test_csv_takes_a_long_field(tmp_path: Path) -> None:
    (text,) = load(tmp_path / "a.csv", "text\n" + "x" * 300_000)
    assert len(text) == 300_006


def test_csv_takes_a_long_field_while_another_thread_reads_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of a field is one for the process, and the short file restores it."""
    limit, read = csv.field_size_limit(), csv.reader
    short_reads, long_reads, short_is_done = (threading.Event() for _ in range(3))

    def reader(lines: io.StringIO, **kwargs: Any) -> Iterator[list[str]]:
        if len(lines.getvalue()) > limit:
            long_reads.set()
            assert short_is_done.wait(20)
        else:
            short_reads.set()
            long_reads.wait(1)  # in vain where the long file waits for this one
        return read(lines, **kwargs)

    monkeypatch.setattr(csv, "reader", reader)
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(load_file, "short.csv", data=b"text\nx")
        assert short_reads.wait(20)
        long = pool.submit(load_file, "long.csv", data=b"text\n" + b"x" * 300_000)
        assert len(short.result()) == 1
        short_is_done.set()
        assert len(long.result()[0].page_content) > 300_000
    assert csv.field_size_limit() == limit


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^Is a directory$"):
        load_file(tmp_path)
    with pytest.raises(LoadError, match=r"^No such file or directory$"):
        load_file(tmp_path / "gone.txt")


def test_a_file_name_that_is_no_utf8_is_stored_with_escapes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        Path(os.fsdecode(path)).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (document,) = load_file(os.fsdecode(path))
    assert document.metadata["source"].encode().endswith(rb"caf\udce9.txt")
