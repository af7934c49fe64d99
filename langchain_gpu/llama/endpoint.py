"""Where a llama.cpp server listens: only this process can connect to it."""

from __future__ import annotations

import errno
import http.client
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Longest path a Unix socket may have, with room for systems that allow less than Linux's 107.
_SOCKET_PATH = 100
_HTTP_SECONDS = 30.0
_PREFIX = "langchain-gpu-"
_SOCKET = "llama.sock"
_FRESH = 60.0  # seconds in which a socket may be there and nobody listen yet
_endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class Endpoint:
    """Where one server listens, and what is asked there.

    llama.cpp's server always listens: here on a Unix socket in a folder only this user may enter,
    elsewhere on a loopback port behind a random key. The folder goes with the endpoint, or, where
    the process was killed, with the next endpoint.

    Attributes:
        path: The Unix socket, None for the loopback port.
    """

    def __init__(self) -> None:
        _sweep()
        folder = tempfile.mkdtemp(prefix=_PREFIX)  # mode 0700
        self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / _SOCKET
        fits = hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) <= _SOCKET_PATH
        self.path = path if fits else None
        self._key = secrets.token_urlsafe(32)
        _endpoints.add(self)
        self._netloc = ""

    def guard(self, params: Any) -> None:
        """Have the server that starts with these `xllamacpp.CommonParams` listen here only."""
        if self.path is not None:
            params.hostnames = [str(self.path)]
        else:
            params.hostnames = ["127.0.0.1"]
            params.api_keys = [self._key]

    def opened(self, address: str) -> None:
        """Learn the address that the started server gives: its port is the system's choice."""
        self._netloc = urlsplit(address).netloc

    def close(self) -> None:
        """Remove the folder now: no server listens here."""
        self._remove_folder()

    def leave(self) -> None:
        """Never remove the folder: it is the parent's of this process."""
        self._remove_folder.detach()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the server's answer, errors too: 0.2 ms over a Unix socket."""
        connection: http.client.HTTPConnection
        if self.path is not None:
            connection = _UnixConnection(self.path)
        else:
            connection = http.client.HTTPConnection(self._netloc, timeout=_HTTP_SECONDS)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer


def close_all() -> None:
    """Remove the folders of all endpoints: for a process that is to end at once."""
    for endpoint in list(_endpoints):
        endpoint.close()


def _sweep() -> None:
    """Remove this user's folders of servers that were killed."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_SOCKET}"):
        try:
            mine = place.parent.stat().st_uid == os.getuid()
            if mine and time.time() - place.stat().st_mtime > _FRESH and _is_dead(place):
                shutil.rmtree(place.parent, ignore_errors=True)
        except OSError:  # another process removed it, or may not be looked into
            continue


def _is_dead(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # a server that is busy is no reason to wait
        return probe.connect_ex(str(place)) == errno.ECONNREFUSED


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_HTTP_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_HTTP_SECONDS)
        self.sock.connect(str(self._path))


__all__ = ["Endpoint", "close_all"]
