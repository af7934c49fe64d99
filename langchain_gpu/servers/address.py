"""A server's address and the headers of its requests."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from langchain_gpu.servers.server import Server

OLLAMA_PORT = 11434
TRITON_HTTP_PORT, TRITON_GRPC_PORT = 8000, 8001
_GRPC = {"http": "grpc", "https": "grpcs", "grpc": "grpc", "grpcs": "grpcs"}
_SECRET = 6  # characters: what has fewer ("true") is not a secret
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


def check_url(url: str) -> str:
    """Return `url` without a slash at its end.

    Raises:
        ValueError: It is not an http(s) address, or holds a password, a query or a fragment.
    """
    parts = _parts(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _has_port(parts):
        raise ValueError(f"{url!r} is not a server address; write http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise ValueError(f"the address of {parts.netloc} must end before '?' and '#'")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class GrpcPlace:
    """Where a server speaks gRPC.

    Attributes:
        host: Host and port.
        encrypted: Whether it speaks TLS.
    """

    host: str
    encrypted: bool

    @property
    def url(self) -> str:
        """The address, as it may be given again."""
        return f"{'grpcs' if self.encrypted else 'grpc'}://{self.host}"


def grpc_place(url: str) -> GrpcPlace:
    """Return where Triton speaks gRPC.

    Every port is taken for the gRPC port, except 8000: there Triton answers over HTTP, and speaks
    gRPC one port above. Without a port it is 8001.

    Raises:
        ValueError: It is not a grpc(s) or http(s) address of a host, or holds a password or a path.
    """
    parts = _parts(url)
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in _GRPC or not parts.hostname or not _has_port(parts) or rest:
        raise ValueError(
            f"{url!r} is not the address of a Triton server; write grpc://HOST:8001, or grpcs:// "
            f"where it speaks TLS"
        )
    port = parts.port or TRITON_GRPC_PORT
    if port == TRITON_HTTP_PORT and parts.scheme in {"http", "https"}:
        port = TRITON_GRPC_PORT
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return GrpcPlace(f"{name}:{port}", _GRPC[parts.scheme] == "grpcs")


def host_of(url: str) -> str:
    """Return the host and port of `url`, for messages."""
    return urlsplit(url).netloc


def has_path(url: str) -> bool:
    """Say whether `url` names a place on its server."""
    return urlsplit(url).path.strip("/") != ""


def is_loopback(url: str) -> bool:
    """Say whether `url` is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_ollamas_port(url: str) -> bool:
    """Say whether `url` has the port that Ollama listens on where nobody chose another."""
    return urlsplit(url).port == OLLAMA_PORT


def ollama_url(environ: Mapping[str, str] = os.environ) -> str:
    """Return where Ollama listens: OLLAMA_HOST as its own client reads it, or its usual port."""
    value = environ.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, separator, rest = value.rpartition("://")
    place, _, path = rest.partition("/")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # no port, or a bare IPv6 address in brackets
        host, port = place, ""
    # The server is told to listen on every interface by these; nobody can call them.
    host = "127.0.0.1" if host in {"", "0.0.0.0", "[::]"} else host  # noqa: S104
    port = port or {"http": "80", "https": "443"}.get(scheme if separator else "", str(OLLAMA_PORT))
    return check_url(f"{scheme or 'http'}://{host}:{port}" + (f"/{path}" if path else ""))


def headers_of(server: Server) -> dict[str, str]:
    """Return the headers of every request.

    Raises:
        ValueError: A value cannot be sent; the message does not show it.
    """
    headers = dict(server.headers)
    for name, value in headers.items():
        if not _SENDABLE.fullmatch(value):
            raise ValueError(f"the value of header {name!r} holds characters that cannot be sent")
    if server.api_key:
        if not _SENDABLE.fullmatch(server.api_key):
            raise ValueError(
                "api_key holds characters that cannot be sent, perhaps a space or a newline at "
                "its end"
            )
        headers["Authorization"] = f"Bearer {server.api_key}"
    return headers


def is_secret(value: str) -> bool:
    """Say whether a value is long enough to be a secret, and not a word like "true"."""
    return len(value) >= _SECRET


def secrets_of(server: Server) -> list[str]:
    """Return what no message may show, longest first."""
    words = [word for value in server.headers.values() for word in [value, *value.split()]]
    found = {word for word in words if is_secret(word)}
    if server.api_key:
        found.add(server.api_key)
    return sorted(found, key=len, reverse=True)


def _parts(url: str) -> SplitResult:
    """Take an address apart.

    Raises:
        ValueError: It holds a user or a password.
    """
    parts = urlsplit(url.strip())
    if "@" in (parts.netloc or url):  # never shown: what stands before the @ is a secret
        raise ValueError("an address must not hold a user or password; use api_key or headers")
    return parts


def _has_port(parts: SplitResult) -> bool:
    """Say whether the port is a number, or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
