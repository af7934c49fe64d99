"""The tokenizer of BM25: texts to words."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no spaces between words; each of their characters counts as one.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_ASCII = re.compile(r"[a-z0-9_]+").findall
# Marks of Arabic and of India's scripts are none to `\w`, and would cut their words in two.
_MARKS = "\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w{_MARKS}])+").findall


def split(text: str) -> list[str]:
    """Return the words of a text, in its order: no case, no punctuation, no stop words left out.

    Forms that look alike are one word (NFKC). A character of Chinese, Japanese or Thai is a word.
    """
    if text.isascii():
        return _ASCII(text.lower())
    return _WORD(unicodedata.normalize("NFKC", text).casefold())


__all__ = ["split"]
