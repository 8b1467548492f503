"""Which sequence's keys and values a prompt can begin with: a finished one's or a running one's."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from coterie.infer.prefix import BLOCK, PrefixCache, usable
from coterie.infer.request import Request


@torch.inference_mode()
def reuse(
    request: Request, running: Iterable[Request], prefixes: PrefixCache, multiple: int, prompts_alone: bool
) -> None:
    """Replace a request's cache by a copy of another sequence's, where that covers more of its prompt.

    The other sequence may be finished or running. This is tried before every step until the prompt is read,
    because a prompt that begins the same way may be in progress. The last prompt token is always read,
    because the reply's first token is drawn from it; a prompt whose tokens are scored is read whole.
    `multiple`: of how many tokens the copy's length is one; `prompts_alone`: replies are not shared. A
    deterministic engine shares whole chunks of prompts only: reading them again would give the same bytes.
    """
    most = request.num_prompt - 1
    done = request.cache.length
    if request.prompt is not None or most - done < BLOCK:
        return
    best, source = done + BLOCK - 1, None
    for other in running:
        if other is not request and other.cache.length > best and other.tokens[best] == request.tokens[best]:
            whole = other.tokens[: other.num_prompt] if prompts_alone else other.tokens
            length = usable(other.salt, whole, other.cache, request.salt, request.tokens, most, multiple)
            if length > best:
                best, source = length, other
    kept = prefixes.find(request.salt, request.tokens, most, multiple)
    if kept is not None and kept.length > best:
        request.cache = kept
    elif source is not None:
        request.cache = source.cache.fork(best)
    else:
        return
    request.cached = request.cache.length


def is_read_by_another(request: Request, reading: Iterable[Request]) -> bool:
    """Whether its whole prompt is being read for another request, whose keys and values it can copy next."""
    if request.prompt is not None or request.num_prompt <= BLOCK or request.cache.length:
        return False
    return any(
        not other.num_drawn and other.tokens == request.tokens and other.salt == request.salt
        for other in reading
    )
