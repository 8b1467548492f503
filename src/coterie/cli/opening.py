"""MODEL or address, as the verbs of the client's side take it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coterie.agents.speaker import RemoteSpeaker


@contextlib.contextmanager
def speaking(target: str, dtype: str, key_file: str | None, served: str | None) -> Iterator[RemoteSpeaker]:
    """A server at an address, or one of this process for a checkpoint (directory or hub id), which ends with
    the block.

    There is one way to talk to a model, so that tool calls, schemas and cached prompts are the same
    everywhere. The server of this process listens on this machine alone, with a key that nobody else knows.
    Errors: `CoterieError` for what cannot be loaded or reached.
    """
    from coterie.agents.speaker import RemoteSpeaker
    from coterie.config.errors import ConfigError
    from coterie.remote.client import Endpoint, is_url, read_key

    if is_url(target):
        endpoint = Endpoint(target, read_key(key_file))
        with contextlib.closing(endpoint):
            yield RemoteSpeaker(endpoint, served)
        return
    if key_file is not None or served is not None:
        raise ConfigError(
            f"{target}: a key or a served name goes with a server's address (http://...), not a model"
        )
    from coterie.infer.model import load
    from coterie.serve.server import serve_in_thread

    key = secrets.token_urlsafe()
    quiet = {"page": False, "log_requests": "off", "request_timeout": 86400.0, "drain": 0.0}
    with serve_in_thread(load(target, dtype=dtype), "model", api_key=key, **quiet) as server:
        endpoint = Endpoint(server.url, key, label=target)
        with contextlib.closing(endpoint):
            yield RemoteSpeaker(endpoint)
