"""One llama.cpp server per settings, freed with its last user."""

from __future__ import annotations

import threading
import weakref

from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.utils.forking import check_process

_servers: weakref.WeakValueDictionary[LlamaSettings, LlamaServer] = weakref.WeakValueDictionary()
# Held while a server starts, not while one is looked up: who shares a server that runs need not
# wait for another model.
_starting_lock = threading.Lock()


def shared_server(settings: LlamaSettings) -> LlamaServer:
    """Return the server with these settings that is already here, or start it.

    Raises:
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
        RuntimeError: It was started before this process was forked.
    """
    server = running_server(settings)
    if server is None:
        with _starting_lock:
            server = running_server(settings)  # another thread may have started it meanwhile
            if server is None:
                server = _servers[settings] = LlamaServer(settings)
    return server


def running_server(settings: LlamaSettings) -> LlamaServer | None:
    """Return the server with these settings if it is here already.

    Raises:
        RuntimeError: It was started before this process was forked.
    """
    server = _servers.get(settings)
    if server is not None:
        check_process(server.process)
    return server


__all__ = ["running_server", "shared_server"]
