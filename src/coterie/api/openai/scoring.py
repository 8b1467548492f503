"""`POST /v1/rerank` (the form of Jina and Cohere) and `POST /v1/score` (that of vLLM).

Both compare texts by the cosine of their vectors in `/v1/embeddings`, as vLLM does with embedding models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from coterie.hosting.errors import invalid
from coterie.protocol.body import MAX_TOKENS, Body, Name, Text, Whole
from coterie.protocol.received import Received, receive
from coterie.protocol.requests import Keep
from coterie.protocol.vectors import MAX_INPUTS, encoded, read_as_letters, vectors
from coterie.protocol.wire import JsonAnswer


class RerankDocument(Body):
    """A document as an object."""

    place = "documents"
    text: Text


class RerankRequest(Body):
    """A query and the documents to sort by how near they are to it."""

    place = "/v1/rerank"
    model: Name | None = None
    query: Text
    documents: Annotated[list[Text | RerankDocument], Field(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[Whole, Field(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None = None
    truncate_prompt_tokens: Keep | None = None


class ScoreRequest(Body):
    """Pairs of texts: one with one, one with many, or many with as many."""

    place = "/v1/score"
    model: Name | None = None
    text_1: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    text_2: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    truncate_prompt_tokens: Keep | None = None


async def rerank(request: Request) -> Response:
    """The documents that are nearest to the query, best first; of equal ones the earlier first."""
    received = await receive(request, RerankRequest)
    body = received.body
    documents = [one if isinstance(one, str) else one.text for one in body.documents]

    def read() -> list[list[int]]:
        service, keep = received.service, body.truncate_prompt_tokens
        queries = encoded(service, [body.query], "/query", keep)
        found = encoded(service, documents, "/documents", keep, body.max_tokens_per_doc)
        return [*queries, *found]

    inputs = await received.prepared(request, read)
    query, *others = await vectors(request, received, inputs)
    scores = [_cosine(query, other) for other in others]
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: body.top_n]
    shown = body.return_documents
    if shown is None:  # the second version of Cohere's protocol never gives them
        shown = request.url.path != "/v2/rerank"
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    for result in results if shown else ():
        result["document"] = {"text": documents[result["index"]]}
    letters = [*read_as_letters(received.service, body.query, "query"),
               *read_as_letters(received.service, documents, "documents")]  # fmt: skip
    return _answer(received, "rerank-", {"results": results}, inputs, letters)


async def score(request: Request) -> Response:
    """How near the texts of each pair are to each other."""
    received = await receive(request, ScoreRequest)
    body = received.body
    first = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    second = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    if len(first) not in (1, len(second)):
        raise invalid("/text_1: give one text, or as many as in text_2", "/text_1")

    def read() -> list[list[int]]:
        service, keep = received.service, body.truncate_prompt_tokens
        return [*encoded(service, first, "/text_1", keep), *encoded(service, second, "/text_2", keep)]

    inputs = await received.prepared(request, read)
    found = await vectors(request, received, inputs)
    left, right = found[: len(first)], found[len(first) :]
    data = [
        {"index": index, "object": "score", "score": _cosine(left[index if len(left) > 1 else 0], other)}
        for index, other in enumerate(right)
    ]
    letters = [*read_as_letters(received.service, first, "text_1"),
               *read_as_letters(received.service, second, "text_2")]  # fmt: skip
    return _answer(received, "score-", {"object": "list", "data": data}, inputs, letters)


def _cosine(one: Tensor, other: Tensor) -> float:
    """Of two vectors of length 1."""
    return float(one @ other)


def _answer(
    received: Received[Any], prefix: str, found: dict[str, Any], inputs: Sequence[list[int]], lost: list[str]
) -> Response:
    tokens = sum(map(len, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = received.head(prefix)
    model = head["model"] or received.service.name
    return JsonAnswer({**head, "model": model, **found, "usage": usage}, headers=received.headers(lost))
