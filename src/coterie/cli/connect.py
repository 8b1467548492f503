"""Reach the server that a verb names by its address."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coterie.remote.client import Endpoint


@contextlib.contextmanager
def address(url: str, key_file: str | None) -> Iterator[Endpoint]:
    """The server at an address, closed at the end of the block. Errors: `ConfigError` for another target."""
    from coterie.config import ConfigError
    from coterie.remote.client import Endpoint, is_url, read_key

    if not is_url(url):
        raise ConfigError(f"{url}: give a server's address (http://HOST:PORT); `coterie serve` starts one")
    with contextlib.closing(Endpoint(url, read_key(key_file))) as endpoint:
        yield endpoint


@contextlib.contextmanager
def counter() -> Iterator[Callable[[str], None]]:
    """Show progress on one line of the terminal, erased at the end. Without a terminal, show nothing."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")
