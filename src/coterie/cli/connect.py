"""Reach the model that a verb names: a server by its address, or a checkpoint in this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coterie.agents.speaker import RemoteSpeaker
    from coterie.config.expert_place import ExpertPlace
    from coterie.infer.model import LanguageModel
    from coterie.infer.sampling import SamplingParams
    from coterie.remote.client import Endpoint


@contextlib.contextmanager
def connect(
    target: str,
    dtype: str,
    key_file: str | None,
    served: str | None,
    template: str | None = None,
    quant: str | None = None,
    adapter: str | None = None,
    kernels: str | None = None,
    experts: ExpertPlace | None = None,
) -> Iterator[RemoteSpeaker]:
    """A server at an address, or a checkpoint (directory or hub id) answered in this process.

    Both are reached through the same HTTP API, so tool calls, schemas and cached prompts work the same way.
    A model of this process needs no port and no key; its engine ends with the block.

    Errors: `CoterieError` for a model that cannot be loaded or a server that cannot be reached.
    """
    from coterie.agents.speaker import RemoteSpeaker
    from coterie.config import ConfigError
    from coterie.config.expert_place import ExpertPlace
    from coterie.remote.client import is_url

    if is_url(target):
        if template is not None:
            raise ConfigError(f"{target}: a server has its own chat template; leave out --template")
        if adapter is not None:
            raise ConfigError(f"{target}: a server has its own adapters; leave out --adapter, take --served")
        if quant is not None:
            raise ConfigError(f"{target}: a server chooses what it holds weights in; leave out --quant")
        if kernels is not None:
            raise ConfigError(f"{target}: a server chooses what it computes on; leave out --kernels")
        if experts is not None and experts != ExpertPlace("auto"):
            raise ConfigError(f"{target}: a server chooses where its experts are; leave out --experts")
        with address(target, key_file) as endpoint:
            yield RemoteSpeaker(endpoint, served)
        return
    if key_file is not None or served is not None:
        raise ConfigError(
            f"{target}: a key or a served name goes with a server's address (http://...), not a model"
        )
    from coterie.infer.model import load
    from coterie.serve.inprocess import endpoint as in_process

    held, computed, place = quant or "stored", kernels or "auto", experts or ExpertPlace("auto")
    model = load(
        target, dtype, adapter=adapter, template=template, quant=held, kernels=computed, experts=place
    )
    model.sampling = recommended(model)
    # A day: nobody else waits for this model, and a slow machine may take long.
    with contextlib.closing(in_process(model, label=target, request_timeout=86400.0)) as local:
        yield RemoteSpeaker(local)


def recommended(model: LanguageModel) -> SamplingParams:
    """The sampling settings that the model's directory names, or else temperature 0.7 and top-p 0.95."""
    named = {} if model.checkpoint is None else model.checkpoint.generation_config
    if any(named.get(name) is not None for name in ("do_sample", "temperature", "top_p", "top_k", "min_p")):
        return model.sampling
    return replace(model.sampling, temperature=0.7, top_p=0.95)


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
