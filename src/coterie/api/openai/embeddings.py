"""`POST /v1/embeddings`: the mean of the last hidden states, normalised to length 1."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from coterie.api.common.body import Body, Ids, Name, Text
from coterie.api.common.protocol import Keep, cut_prompt
from coterie.api.common.received import Received, receive
from coterie.api.common.wire import JsonAnswer, unless_gone
from coterie.api.openai.completions import encode_text, read_as_letters
from coterie.config import CoterieError
from coterie.hosting.errors import draining, invalid, too_long
from coterie.hosting.keys import spend
from coterie.hosting.service import Service
from coterie.infer.request import check_prompt
from coterie.nn.forward_context import ForwardContext

MAX_INPUTS = 2048


class EmbeddingRequest(Body):
    """Texts or token ids."""

    place = "/v1/embeddings"
    model: Name
    input: Text | Ids | list[Text] | list[Ids]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=2**20)] | None = None
    truncate_prompt_tokens: Keep | None = None


async def embeddings(request: Request) -> Response:
    """One vector for each input. `dimensions` keeps the first numbers, normalised again."""
    received = await receive(request, EmbeddingRequest)
    service, body = received.service, received.body
    width = service.model.config.width
    if body.dimensions is not None and body.dimensions > width:
        raise invalid(f"/dimensions: the model's vectors have {width} numbers", "/dimensions")
    inputs = await received.prepared(request, lambda: _inputs(service, body))
    data = []
    for index, vector in enumerate(await vectors(request, received, inputs)):
        if body.dimensions is not None:
            vector = torch.nn.functional.normalize(vector[: body.dimensions], dim=0)
        if body.encoding_format == "base64":
            value: object = base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
        else:
            value = vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(map(len, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": body.model, "usage": usage}
    letters = read_as_letters(service, body.input, "input")
    return JsonAnswer(answer, headers=received.headers(letters))


def _inputs(service: Service, body: EmbeddingRequest) -> list[list[int]]:
    given: object = body.input
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    assert isinstance(given, list)
    if not 1 <= len(given) <= MAX_INPUTS:
        raise invalid(f"/input: give from 1 to {MAX_INPUTS} inputs", "/input")
    return encoded(service, given, "/input", body.truncate_prompt_tokens)


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


async def vectors(request: Request, received: Received[Any], inputs: Sequence[list[int]]) -> list[Tensor]:
    """The vector of each text, (D,) of length 1.

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
            await service.thread.run(partial(_embed, service, received.variant, ids), deadline)
            for ids in inputs
        ]

    return await unless_gone(request.receive, work())


@torch.inference_mode()
def _embed(service: Service, variant: str, ids: list[int]) -> Tensor:
    """(D,) float32 of length 1."""
    device = service.model.device
    h_TD = service.engine.variant(variant)(
        torch.tensor(ids, device=device), ForwardContext.packed([len(ids)], device=device)
    )
    return torch.nn.functional.normalize(h_TD.float().mean(0), dim=0).cpu()
