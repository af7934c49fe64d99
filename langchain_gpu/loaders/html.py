"""HTML -> text that keeps headings, paragraphs, lists and code."""

from __future__ import annotations

import re

from langchain_gpu.utils.extras import require

_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_LINES = ["dd", "dt", "li", "tr"]
_BLOCKS = [
    *("address", "article", "aside", "blockquote", "div", "dl", "figcaption", "footer", "form"),
    *("header", "hr", "main", "nav", "ol", "p", "pre", "section", "table", "title", "ul"),
]
_UNSEEN = ["script", "style", "template", "noscript", "svg"]
_CODE_LINE = "\n\0"  # keeps the indentation of <pre> while other spaces are tidied


def html_text(data: bytes | str) -> str:
    """Return the visible text of a page.

    Headings get Markdown's `#`, so that a page is cut at them as Markdown is; list items get `-`,
    table cells are parted by `|`. Bytes are decoded by their byte-order mark, the page's own `meta`
    or as UTF-8.
    """
    bs4 = require("bs4", extra="cli")
    soup = bs4.BeautifulSoup(data, "html.parser")
    for tag in soup(_UNSEEN):
        tag.decompose()
    code = {id(text) for tag in soup("pre") for text in tag.find_all(string=True)}
    for text in soup.find_all(string=True):
        if type(text) is not bs4.NavigableString:  # a comment, a doctype
            text.extract()
        elif id(text) in code:
            text.replace_with(text.replace("\n", _CODE_LINE))
        else:
            text.replace_with(re.sub(r"\s+", " ", text))
    for tag in soup("br"):
        tag.replace_with("\n")
    for tag in soup(_HEADINGS):
        _surround(tag, "\n\n" + "#" * int(tag.name[1]) + " ", "\n\n")
    for tag in soup(["td", "th"]):
        tag.append(" | ")
    for tag in soup(_LINES):
        _surround(tag, "\n- " if tag.name == "li" else "\n", "\n")
    for tag in soup(_BLOCKS):
        _surround(tag, "\n\n", "\n\n")
    return _tidy(soup.get_text())


def _surround(tag: object, before: str, after: str) -> None:
    tag.insert(0, before)  # type: ignore[attr-defined]
    tag.append(after)  # type: ignore[attr-defined]


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+(?=\n|$)", "", text)
    text = re.sub(r"\n (?=[^ ])", "\n", text)
    text = re.sub(r"(?m)^(-|#{1,6})\s*\n\s*(?=\S)", r"\1 ", text)  # <li><p>, <h1><div>
    return re.sub(r"\n{3,}", "\n\n", text).replace("\0", "").strip()
