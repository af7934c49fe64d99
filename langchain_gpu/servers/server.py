"""The settings with which a server is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONNECT_SECONDS = 10.0
"""How long a connection may take: a server that is there accepts at once."""
ASK_SECONDS = 30.0
"""How long a question may take whose answer a server has at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The address of a server that runs a model, and the settings of its requests.

    Attributes:
        url: Where it is; None for the place where the back end's server usually listens.
        api_key: Sent as a bearer token; never shown.
        timeout: Seconds a request may take.
        max_retries: Further attempts after an overload, a server's error or a broken connection.
        concurrency: Requests in flight at the same time.
        batch_size: Texts per request at most.
        headers: More headers; their values are never shown.
    """

    url: str | None = field(default=None, repr=False)  # it may hold a password, until it is checked
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    max_retries: int = 3
    concurrency: int = 8
    batch_size: int = 64
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
