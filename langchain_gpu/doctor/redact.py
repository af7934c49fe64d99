"""Remove names of people, places, machines, and keys from a report."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Repetitions are bounded: a long line of a library must not take minutes.
_NAME = (
    r"[\w.-]{0,32}(?:api[_-]?key|token(?!iz|s\b)|secret|passw|credential|auth|serial)[\w.-]{0,32}"
    r"|key"
)
_IS_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_LEAST = 6  # characters of a secret: shorter words of the environment are settings
_COMMON_USERS = {"root", "user", "nobody"}
_HEX = r"[0-9A-Fa-f]"
_MAKERS = (
    r"hf_|gh[opsur]_|github_pat_|glpat-|sk-|pk-|rk-|nvapi-|lsv2_|gsk_|xai-|pypi-|npm_|xox[abposr]-"
    r"|AIza|AKIA|ASIA|ya29\."
)

_PATTERNS: tuple[tuple[str, str], ...] = (
    # https://user:password@host, and a user alone
    (r"(?<=://)[^\s/'\"]+@", "<credentials>@"),
    (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", r"\1 <secret>"),
    (
        r"(?i)\b(serial(?:[ _-]?(?:number|no\.?))?)['\"]?\s*[:=]?\s*['\"]?(?=\S*\d)[\w-]{6,}",
        r"\1 <serial>",
    ),
    # the values of ?key=... and of lines such as `api_key: ...` or `"token": "..."`
    (
        rf"(?i)\b({_NAME})(['\"]?\s*[:=]\s*['\"]?)(?!<|basic\b|bearer\b)[^\s'\",;&]+",
        r"\1\2<secret>",
    ),
    # tokens by the shape their makers gave them
    (rf"\b(?:{_MAKERS})[\w.-]{{8,}}", "<secret>"),
    (r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", "<secret>"),
    (r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+", "<email>"),
    # UUIDs, with the prefix of a card or of a part of one
    (
        rf"(?<!{_HEX})(?:MIG-)?(?:GPU-)?{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}(?:/\d+/\d+)?",
        "<uuid>",
    ),
    (rf"\b(?:GPU|MIG)-{_HEX}{{6,}}(?:-{_HEX}+)*", "<uuid>"),
    (rf"\b{_HEX}{{2}}(?:[:-]{_HEX}{{2}}){{5}}\b", "<mac>"),
    # what is long and random is nobody's business either
    (rf"\b{_HEX}{{32,}}", "<hex>"),
    # home folders of any user
    (r"(?<![\w.])/(?:home|Users)/(?!<)[^/\s:'\"]+", "~"),
    (r"(?i)\b[A-Z]:[\\/]+Users[\\/]+[^\\/\s:'\"]+", "~"),
    (r"(?<![\w.])/root(?=/|\b)", "~"),
)
_COMPILED = tuple((re.compile(pattern), sign) for pattern, sign in _PATTERNS)
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")
_IPV6 = re.compile(rf"(?<![\w:.])\[?(?:{_HEX}{{0,4}}:){{2,7}}(?:{_HEX}{{0,4}}|[\d.]+)(?:%\w+)?\]?")


def redact(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Return a copy of plain data, dictionaries' keys kept, with its strings redacted.

    Removed are the home folder, the names of the user and of the host, values of environment
    variables that are keys by their name, what looks like a key, e-mail and IP addresses, MAC
    addresses, UUIDs, serial numbers and the credentials of URLs.

    Args:
        value: Strings, numbers, lists and dictionaries.
        environ: Of this process.
    """
    if isinstance(value, str):
        return _redact(value, environ)
    if isinstance(value, Mapping):
        return {key: redact(item, environ) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, environ) for item in value]
    return value


def _redact(text: str, environ: Mapping[str, str]) -> str:
    secrets = {
        value.strip()
        for name, value in environ.items()
        if _IS_SECRET.search(name) and len(value.strip()) >= _LEAST and not _is_setting(value)
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    for home in sorted(_homes(environ), key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w-])", "~", text)
    for pattern, sign in _COMPILED:
        text = pattern.sub(sign, text)
    text = _IPV4.sub(_address, text)
    text = _IPV6.sub(_address, text)
    for name, sign in _names(environ):
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", sign, text, flags=re.IGNORECASE)
    return text


def _is_setting(value: str) -> bool:
    """Say whether a variable with a key's name only switches something, or names a file."""
    return value.strip().lower() in {"true", "false"} or value.strip().isdecimal()


def _homes(environ: Mapping[str, str]) -> set[str]:
    found = {environ.get("HOME", ""), environ.get("USERPROFILE", "")}
    with contextlib.suppress(RuntimeError):
        found.add(str(Path.home()))
    return {home.rstrip("/\\") for home in found if len(home.rstrip("/\\")) > 1}


def _names(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    users = {environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    with contextlib.suppress(OSError, KeyError, ImportError):
        users.add(getpass.getuser())
    host = environ.get("HOSTNAME") or platform.node()
    hosts = {host, platform.node()}
    hosts |= {name.partition(".")[0] for name in hosts}
    found = [(name, "<user>") for name in users if name.lower() not in _COMMON_USERS]
    found += [(name, "<host>") for name in hosts if name.lower() != "localhost"]
    return sorted((pair for pair in found if len(pair[0]) > 1), key=lambda pair: -len(pair[0]))


def _address(match: re.Match[str]) -> str:
    word = match[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(word)
    except ValueError:  # a version, a time, a place on the bus
        return match[0]
    if address.is_loopback or address.is_unspecified:
        return match[0]
    return "<ip>"


__all__ = ["redact"]
