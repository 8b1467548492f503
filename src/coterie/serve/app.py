"""The ASGI application: all routes behind one middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

from starlette.routing import BaseRoute, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from coterie.api.admin import adapters, feedback, status
from coterie.api.anthropic import messages
from coterie.api.anthropic.models import in_form_of_client
from coterie.api.jobs import batches, files
from coterie.api.ollama import chat as ollama_chat
from coterie.api.ollama import embed as ollama_embed
from coterie.api.ollama import models as ollama_models
from coterie.api.openai import (
    chat,
    completions,
    conversations,
    embeddings,
    responses,
    scoring,
    stored_responses,
    tokens,
)
from coterie.hosting.host import Host
from coterie.hosting.job_board import JobBoard
from coterie.serve.middleware import PAGE, PAGE_PATHS, Guard

# Files, and what is done with them while nobody waits.
_JOBS = (
    ("/v1/files", files.upload, "POST"),
    ("/v1/files", files.listing, "GET"),
    ("/v1/files/{id}", files.retrieve, "GET"),
    ("/v1/files/{id}", files.delete, "DELETE"),
    ("/v1/files/{id}/content", files.content, "GET"),
    ("/v1/batches", batches.create, "POST"),
    ("/v1/batches", batches.listing, "GET"),
    ("/v1/batches/{id}", batches.retrieve, "GET"),
    ("/v1/batches/{id}/cancel", batches.cancel, "POST"),
)


def routes(page: bool = True) -> list[BaseRoute]:
    """All routes. Unknown paths return 404, wrong methods 405. `page`: include the chat page's files."""
    listed: list[BaseRoute] = [
        Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
        Route("/v1/completions", completions.completions, methods=["POST"]),
        Route("/v1/responses", responses.responses, methods=["POST"]),
        Route("/v1/messages", messages.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
        Route("/v1/responses/input_tokens", responses.input_tokens, methods=["POST"]),
        Route("/v1/responses/{id}", stored_responses.response, methods=["GET"]),
        Route("/v1/responses/{id}", stored_responses.delete, methods=["DELETE"]),
        Route("/v1/responses/{id}/input_items", stored_responses.input_items, methods=["GET"]),
        Route("/v1/responses/{id}/cancel", stored_responses.cancel, methods=["POST"]),
        Route("/v1/conversations", conversations.create, methods=["POST"]),
        Route("/v1/conversations/{id}", conversations.conversation, methods=["GET"]),
        Route("/v1/conversations/{id}", conversations.update, methods=["POST"]),
        Route("/v1/conversations/{id}", conversations.delete, methods=["DELETE"]),
        Route("/v1/conversations/{id}/items", conversations.items, methods=["GET"]),
        Route("/v1/conversations/{id}/items", conversations.add_items, methods=["POST"]),
        Route("/v1/conversations/{id}/items/{item}", conversations.item, methods=["GET"]),
        Route("/v1/conversations/{id}/items/{item}", conversations.delete_item, methods=["DELETE"]),
        Route("/v1/embeddings", embeddings.embeddings, methods=["POST"]),
        Route("/v1/models", in_form_of_client(status.models), methods=["GET"]),
        Route("/v1/models/{name:path}", in_form_of_client(status.model), methods=["GET"]),
        Route("/v1/moe/stats", status.moe_stats, methods=["GET"]),
        Route("/v1/adapters", adapters.listing, methods=["GET"]),
        Route("/v1/adapters/{name}", adapters.add, methods=["PUT"]),
        Route("/v1/adapters/{name}", adapters.remove, methods=["DELETE"]),
        Route("/v1/feedback", feedback.feedback, methods=["POST"]),
        Route("/health", status.health, methods=["GET"]),
        Route("/ready", status.ready, methods=["GET"]),
        Route("/metrics", status.metrics, methods=["GET"]),
    ]
    for prefix in ("", "/v1"):
        listed += [
            Route(f"{prefix}/tokenize", tokens.tokenize, methods=["POST"]),
            Route(f"{prefix}/detokenize", tokens.detokenize, methods=["POST"]),
            Route(f"{prefix}/tokenizer_info", tokens.tokenizer_info, methods=["GET"]),
        ]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        listed.append(Route(path, scoring.rerank, methods=["POST"]))
    for path in ("/score", "/v1/score"):
        listed.append(Route(path, scoring.score, methods=["POST"]))
    listed += _ollama()
    listed += [Route(path, endpoint, methods=[method]) for path, endpoint, method in _JOBS]
    if page:
        shown = StaticFiles(directory=PAGE, html=True)
        listed += [Route(path, shown, methods=["GET"]) for path in sorted(PAGE_PATHS)]
    return listed


def _ollama() -> list[BaseRoute]:
    """The API of Ollama; what would change the models has an answer that says so."""
    elsewhere = ("pull", "push", "create", "copy", "delete", "blobs/{digest:path}")
    return [
        Route("/api/chat", ollama_chat.chat, methods=["POST"]),
        Route("/api/generate", ollama_chat.generate, methods=["POST"]),
        Route("/api/embed", ollama_embed.embed, methods=["POST"]),
        Route("/api/embeddings", ollama_embed.embeddings, methods=["POST"]),
        Route("/api/show", ollama_models.show, methods=["POST"]),
        Route("/api/tags", ollama_models.tags, methods=["GET"]),
        Route("/api/ps", ollama_models.ps, methods=["GET"]),
        Route("/api/version", ollama_models.version, methods=["GET"]),
        *(
            Route(f"/api/{name}", ollama_models.not_here, methods=["POST", "DELETE", "HEAD"])
            for name in elsewhere
        ),
    ]


def create_app(host: Host) -> ASGIApp:
    """The ASGI application of a host. Its lifespan starts and stops the engines' threads and the jobs."""
    board = JobBoard.of(host)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        host.start()
        if board is not None:
            board.start()
        try:
            yield
        finally:
            if board is not None:
                await board.stop()
            host.stop()

    # The bare router: Starlette's own application would answer failures before the guard sees them.
    router = Router(routes(host.settings.page), lifespan=lifespan)
    guard = Guard(router, host, SimpleNamespace(host=host, jobs=board))
    if board is not None:
        board.answer_with(guard.unguarded)
    return guard
