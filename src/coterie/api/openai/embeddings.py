"""`POST /v1/embeddings`: the mean of the last hidden states, normalised to length 1."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.errors import invalid
from coterie.hosting.service import Service
from coterie.protocol.body import Body, Ids, Name, Text
from coterie.protocol.received import receive
from coterie.protocol.requests import Keep
from coterie.protocol.vectors import MAX_INPUTS, check_dimensions, encoded, read_as_letters, vectors
from coterie.protocol.wire import JsonAnswer


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
    check_dimensions(service, body.dimensions)
    inputs = await received.prepared(request, lambda: _inputs(service, body))
    data = []
    for index, vector in enumerate(await vectors(request, received, inputs, body.dimensions)):
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
