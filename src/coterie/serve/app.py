"""The ASGI application: all routes behind one middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from coterie.api.admin import adapters, feedback, identity, status
from coterie.api.anthropic import messages
from coterie.api.anthropic.models import in_form_of_client
from coterie.api.jobs import batches, files, fine_tuning
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

Endpoint = Callable[[Request], Awaitable[Response]]
_ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("POST", "/v1/completions", completions.completions),
    ("POST", "/v1/responses", responses.responses),
    ("POST", "/v1/messages", messages.messages),
    ("POST", "/v1/messages/count_tokens", messages.count_tokens),
    ("POST", "/v1/responses/input_tokens", responses.input_tokens),
    ("GET", "/v1/responses/{id}", stored_responses.response),
    ("DELETE", "/v1/responses/{id}", stored_responses.delete),
    ("GET", "/v1/responses/{id}/input_items", stored_responses.input_items),
    ("POST", "/v1/responses/{id}/cancel", stored_responses.cancel),
    ("POST", "/v1/conversations", conversations.create),
    ("GET", "/v1/conversations/{id}", conversations.conversation),
    ("POST", "/v1/conversations/{id}", conversations.update),
    ("DELETE", "/v1/conversations/{id}", conversations.delete),
    ("GET", "/v1/conversations/{id}/items", conversations.items),
    ("POST", "/v1/conversations/{id}/items", conversations.add_items),
    ("GET", "/v1/conversations/{id}/items/{item}", conversations.item),
    ("DELETE", "/v1/conversations/{id}/items/{item}", conversations.delete_item),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("GET", "/v1/models", in_form_of_client(status.models)),
    ("GET", "/v1/models/{name:path}", in_form_of_client(status.model)),
    ("GET", "/v1/moe/stats", status.moe_stats),
    ("GET", "/v1/identity", identity.identity),
    ("GET", "/v1/adapters", adapters.listing),
    ("PUT", "/v1/adapters/{name}", adapters.add),
    ("DELETE", "/v1/adapters/{name}", adapters.remove),
    ("POST", "/v1/feedback", feedback.feedback),
    ("GET", "/health", status.health),
    ("GET", "/ready", status.ready),
    ("GET", "/metrics", status.metrics),
    *(("POST", path, scoring.rerank) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    *(("POST", path, scoring.score) for path in ("/score", "/v1/score")),
    *(("POST", f"{prefix}/tokenize", tokens.tokenize) for prefix in ("", "/v1")),
    *(("POST", f"{prefix}/detokenize", tokens.detokenize) for prefix in ("", "/v1")),
    *(("GET", f"{prefix}/tokenizer_info", tokens.tokenizer_info) for prefix in ("", "/v1")),
    ("POST", "/v1/files", files.upload),
    ("GET", "/v1/files", files.listing),
    ("GET", "/v1/files/{id}", files.retrieve),
    ("DELETE", "/v1/files/{id}", files.delete),
    ("GET", "/v1/files/{id}/content", files.content),
    ("POST", "/v1/batches", batches.create),
    ("GET", "/v1/batches", batches.listing),
    ("GET", "/v1/batches/{id}", batches.retrieve),
    ("POST", "/v1/batches/{id}/cancel", batches.cancel),
    ("POST", "/v1/fine_tuning/jobs", fine_tuning.create),
    ("GET", "/v1/fine_tuning/jobs", fine_tuning.listing),
    ("GET", "/v1/fine_tuning/jobs/{id}", fine_tuning.retrieve),
    ("POST", "/v1/fine_tuning/jobs/{id}/cancel", fine_tuning.cancel),
    ("DELETE", "/v1/models/{name:path}", fine_tuning.delete_model),
    ("GET", "/v1/fine_tuning/jobs/{id}/events", fine_tuning.events),
    ("GET", "/v1/fine_tuning/jobs/{id}/checkpoints", fine_tuning.checkpoints),
    ("POST", "/api/chat", ollama_chat.chat),
    ("POST", "/api/generate", ollama_chat.generate),
    ("POST", "/api/embed", ollama_embed.embed),
    ("POST", "/api/embeddings", ollama_embed.embeddings),
    ("POST", "/api/show", ollama_models.show),
    ("GET", "/api/tags", ollama_models.tags),
    ("GET", "/api/ps", ollama_models.ps),
    ("GET", "/api/version", ollama_models.version),
)
# What would change the models, which Ollama's clients may ask for: the answer says so.
_NOT_HERE = ("pull", "push", "create", "copy", "delete", "blobs/{digest:path}")


def routes(page: bool = True) -> list[BaseRoute]:
    """All routes. Unknown paths return 404, wrong methods 405. `page`: include the chat page's files."""
    listed: list[BaseRoute] = [Route(path, endpoint, methods=[method]) for method, path, endpoint in _ROUTES]
    methods = ["POST", "DELETE", "HEAD"]
    listed += [Route(f"/api/{name}", ollama_models.not_here, methods=methods) for name in _NOT_HERE]
    if page:
        shown = StaticFiles(directory=PAGE, html=True)
        listed += [Route(path, shown, methods=["GET"]) for path in sorted(PAGE_PATHS)]
    return listed


def create_app(host: Host) -> ASGIApp:
    """The ASGI application of a host. Its lifespan starts and stops the engines' threads and the jobs."""
    board = JobBoard.of(host)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        host.start()
        if board is not None:
            await board.start()
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
