"""MODEL or address, as the verbs of the client's side take it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coterie.agents.speaker import RemoteSpeaker


@contextlib.contextmanager
def speaking(target: str, dtype: str, key_file: str | None, served: str | None) -> Iterator[RemoteSpeaker]:
    """A server at an address, or a checkpoint (directory or hub id) answered in this process.

    Both are reached through the same HTTP API, so tool calls, schemas and cached prompts work the same way.
    A model of this process needs no port and no key; its engine ends with the block.
    Errors: `CoterieError` for a model that cannot be loaded or a server that cannot be reached.
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
    from coterie.serve.inprocess import endpoint as in_process

    model = load(target, dtype=dtype)
    # A day: nobody else waits for this model, and a slow machine may take long.
    with contextlib.closing(in_process(model, label=target, request_timeout=86400.0)) as endpoint:
        yield RemoteSpeaker(endpoint)
