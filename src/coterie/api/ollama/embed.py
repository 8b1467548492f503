"""`POST /api/embed`, and the older `/api/embeddings`."""

from __future__ import annotations

import time
from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import Response

from coterie.api.ollama.bodies import OllamaEmbed, OllamaEmbedding
from coterie.api.ollama.clock import nanoseconds
from coterie.hosting.errors import invalid
from coterie.protocol.received import Received, receive
from coterie.protocol.vectors import MAX_INPUTS, check_dimensions, encoded, read_as_letters, vectors
from coterie.protocol.wire import JsonAnswer


async def embed(request: Request) -> Response:
    """One vector for each text. A text that is too long is refused, unless `truncate` is true."""
    received = await receive(request, OllamaEmbed)
    service, body = received.service, received.body
    texts = [body.input] if isinstance(body.input, str) else body.input
    if len(texts) > MAX_INPUTS:
        raise invalid(f"/input: give at most {MAX_INPUTS} inputs", "/input")
    check_dimensions(service, body.dimensions)
    begun = time.monotonic()
    most = service.max_length if body.truncate else None
    found, tokens = await _vectors(request, received, texts, "/input", most, body.dimensions)
    answer = {
        "model": body.model,
        "embeddings": [vector.tolist() for vector in found],
        "total_duration": nanoseconds(time.monotonic() - begun),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    }
    letters = read_as_letters(service, texts, "input")
    return JsonAnswer(answer, headers=received.headers(letters))


async def embeddings(request: Request) -> Response:
    """The vector of one text."""
    received = await receive(request, OllamaEmbedding)
    prompt = received.body.prompt
    found, _ = await _vectors(request, received, [prompt], "/prompt")
    letters = read_as_letters(received.service, prompt, "prompt")
    return JsonAnswer({"embedding": found[0].tolist()}, headers=received.headers(letters))


async def _vectors(
    request: Request,
    received: Received[Any],
    texts: list[str],
    pointer: str,
    most: int | None = None,
    dimensions: int | None = None,
) -> tuple[list[torch.Tensor], int]:
    """The vectors of texts, and how many tokens these have; `most`: tokens of a text to keep."""
    service = received.service
    inputs = await received.prepared(request, lambda: encoded(service, texts, pointer, None, most))
    return await vectors(request, received, inputs, dimensions), sum(map(len, inputs))
