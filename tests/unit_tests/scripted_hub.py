"""The hub, as far as huggingface_hub's own client can tell: answers made of folders here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
import huggingface_hub
from huggingface_hub.utils import _http

_COMMIT = "0" * 40
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+)|/tree/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class ScriptedHub:
    """Serves every `org/name` folder below `root`; `org/closed` is gated: listed, not sent.

    Attributes:
        sent: Bytes of files sent so far.
        asked: Paths of all requests.
        tokens: What stood in their Authorization headers.
        broken: Say `"down"` to answer nothing, `"500"` for errors of the server.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.sent = 0
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.broken = ""

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = unquote(request.url.path)
        self.asked.append(path)
        self.tokens.add(request.headers.get("authorization"))
        if self.broken == "down":
            raise httpx.ConnectError("Name or service not known", request=request)
        if self.broken == "500":
            return httpx.Response(500, request=request)
        if (found := _API.fullmatch(path)) is not None:
            return self._api(request, found[1], found[2] or found[3], tree=found[3] is not None)
        if (found := _FILE.fullmatch(path)) is not None:
            if found[1] == "org/closed":
                headers = {"x-error-code": "GatedRepo"}
                return httpx.Response(403, headers=headers, request=request)
            return self._file(request, self._root / found[1] / found[3])
        return httpx.Response(404, request=request)

    def _api(
        self, request: httpx.Request, repo: str, revision: str | None, *, tree: bool
    ) -> httpx.Response:
        folder = self._root / repo
        if not folder.is_dir():
            headers = {"x-error-code": "RepoNotFound"}
            return httpx.Response(404, headers=headers, request=request)
        if revision not in {None, "main", "v1.0", _COMMIT}:
            headers = {"x-error-code": "RevisionNotFound"}
            return httpx.Response(404, headers=headers, request=request)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if tree:
            body: object = [
                {
                    "type": "file",
                    "path": file.relative_to(folder).as_posix(),
                    "size": file.stat().st_size,
                    "oid": "1" * 40,
                }
                for file in files
            ]
        else:
            body = {"id": repo, "sha": _COMMIT, "siblings": [], "private": False}
        return httpx.Response(200, text=json.dumps(body), request=request)

    def _file(self, request: httpx.Request, file: Path) -> httpx.Response:
        data = file.read_bytes()
        start, end = 0, len(data) - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]), end)
        piece = data[start : end + 1]
        self.sent += len(piece)
        headers = {"content-range": f"bytes {start}-{end}/{len(data)}"}
        return httpx.Response(206, content=piece, headers=headers, request=request)


@contextmanager
def serve(root: Path) -> Iterator[ScriptedHub]:
    """Have huggingface_hub's client talk to a `ScriptedHub`, with no cache of its own."""
    hub = ScriptedHub(root)
    before = _http._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(
        lambda: httpx.Client(transport=httpx.MockTransport(hub.answer))
    )
    try:
        yield hub
    finally:
        huggingface_hub.set_client_factory(before)
