"""Texts as token ids and as vectors, for the endpoints that compare texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from starlette.requests import Request
from torch import Tensor

from coterie.config import CoterieError
from coterie.hosting.errors import draining, invalid, too_long
from coterie.hosting.keys import spend
from coterie.hosting.service import Service
from coterie.infer.request import check_prompt
from coterie.nn.forward_context import ForwardContext
from coterie.protocol.received import Received
from coterie.protocol.requests import cut_prompt
from coterie.protocol.wire import unless_gone

MAX_INPUTS = 2048


def read_as_letters(service: Service, given: Any, field: str) -> list[str]:
    """What `x-coterie-ignored` calls names of special tokens in a field with text prompts: they stay text."""
    tokenizer = service.model.tokenizer
    texts = [given] if isinstance(given, str) else given or ()
    if tokenizer is None:
        return []
    named = any(isinstance(text, str) and tokenizer.special_names_in(text) for text in texts)
    return [f"{field}/special_tokens"] if named else []


def encode_text(service: Service, text: str, special: bool) -> list[int]:
    """Token ids of a text, with what the tokenizer puts before it where `special`."""
    return service.model.encode(text) if special else service.tokenizer.encode(text)


def encoded(
    service: Service,
    given: Sequence[str | list[int]],
    pointer: str,
    keep: int | None,
    most: int | None = None,
) -> list[list[int]]:
    """The token ids of texts, or those given: the first `most`, and of them as `cut_prompt` keeps.

    Errors: `ApiError` 400 for one that is empty, too long or not of this vocabulary.
    """
    inputs = []
    for index, item in enumerate(given):
        ids = encode_text(service, item, True) if isinstance(item, str) else item
        ids = cut_prompt(ids[:most], keep, service.max_length)
        if len(ids) > service.max_length:
            raise too_long(len(ids), None, service.max_length)
        try:
            check_prompt(ids, service.model.config.vocab_size, service.max_length)
        except CoterieError as error:
            raise invalid(f"{pointer}/{index}: {error}", f"{pointer}/{index}") from None
        inputs.append(ids)
    return inputs


def check_dimensions(service: Service, dimensions: int | None) -> None:
    """Errors: `ApiError` 400 for more numbers than the model's vectors have."""
    width = service.model.config.width
    if dimensions is not None and dimensions > width:
        raise invalid(f"/dimensions: the model's vectors have {width} numbers", "/dimensions")


async def vectors(
    request: Request,
    received: Received[Any],
    inputs: Sequence[list[int]],
    dimensions: int | None = None,
) -> list[Tensor]:
    """The vector of each text, (D,) of length 1; `dimensions` keeps the first numbers, normalised again.

    Errors: `ApiError` 408 when it takes too long, 503 when the server ends; `Disconnected`.
    """
    service = received.service
    if service.thread.refusing:
        raise draining()
    spend("prompt", sum(map(len, inputs)))

    async def work() -> list[Tensor]:
        # One text at a time between two steps of the engine, so that running replies continue.
        deadline = service.deadline()
        return [
            await service.thread.run(partial(_embed, service, received.variant, ids, dimensions), deadline)
            for ids in inputs
        ]

    return await unless_gone(request.receive, work())


@torch.inference_mode()
def _embed(service: Service, variant: str, ids: list[int], dimensions: int | None) -> Tensor:
    """(D,) float32 of length 1: the first `dimensions` numbers of the model's vector."""
    device = service.model.device
    h_TD = service.engine.variant(variant)(
        torch.tensor(ids, device=device), ForwardContext.packed([len(ids)], device=device)
    )
    return torch.nn.functional.normalize(h_TD.float().mean(0)[:dimensions], dim=0).cpu()
