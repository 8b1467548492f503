"""What Ollama's API says of models: tags, ps, show and version; and what this server does not do."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie import __version__
from coterie.api.ollama.bodies import OllamaShow
from coterie.api.ollama.clock import moment
from coterie.hosting.errors import ApiError
from coterie.hosting.host import Host, HostedModel
from coterie.hosting.service import Service
from coterie.protocol.received import receive
from coterie.protocol.wire import JsonAnswer

API_VERSION = "0.13.0"  # of Ollama, whose API this is; clients refuse servers that they think too old


async def version(request: Request) -> Response:
    """`GET /api/version`: the version of Ollama whose API is spoken, and this server's."""
    return JsonAnswer({"version": API_VERSION, "server": f"coterie {__version__}"})


async def tags(request: Request) -> Response:
    """`GET /api/tags`: every name that a request may use."""
    host: Host = request.app.state.host
    return JsonAnswer({"models": [_entry(place, name) for place in host.places for name in _names(place)]})


async def ps(request: Request) -> Response:
    """`GET /api/ps`: the models that are loaded."""
    host: Host = request.app.state.host
    loaded = [place for place in host.places if place.service is not None]
    more = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
    return JsonAnswer(
        {
            "models": [
                {**_entry(place, place.card.name), **more, "context_length": place.card.max_length}
                for place in loaded
            ]
        }
    )


async def show(request: Request) -> Response:
    """`POST /api/show`: what is known of a model."""
    received = await receive(request, OllamaShow)
    host: Host = request.app.state.host
    service = received.service
    place = next(place for place in host.places if place.service is service)
    answer = {
        "modelfile": f"# served by coterie {__version__}",
        "parameters": _parameters(service),
        "template": (service.model.tokenizer.chat_template or "") if service.model.tokenizer else "",
        "details": _details(place),
        "model_info": _model_info(service),
        "capabilities": _capabilities(place),
        "modified_at": moment(place.card.created),
    }
    return JsonAnswer(answer, headers=received.headers())


async def not_here(request: Request) -> Response:
    """Answer requests that would change which models there are. Errors: `ApiError` 400, always."""
    raise ApiError(
        400, "models are chosen when the server starts (coterie serve MODEL...); this request changes none",
        "unsupported_operation",
    )  # fmt: skip


def _names(place: HostedModel) -> list[str]:
    return [*place.card.names, *(f"{place.card.name}:{one}" for one in place.adapters)]


def _entry(place: HostedModel, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": moment(place.card.created),
        "size": place.offer.num_bytes,
        "digest": hashlib.sha256(f"{place.card.name}\n{place.offer.num_bytes}".encode()).hexdigest(),
        "details": _details(place),
    }


def _details(place: HostedModel) -> dict[str, Any]:
    family = "moe" if place.card.moe else "dense"
    size = "" if place.service is None else _size(place.service.model.num_parameters)
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": "" if place.service is None else _dtype(place.service),
    }


def _capabilities(place: HostedModel) -> list[str]:
    card = place.card
    able = {"completion": True, "tools": card.tools, "thinking": card.reasoning, "embedding": True}
    return [name for name, has in able.items() if has]


def _model_info(service: Service) -> dict[str, Any]:
    config = service.model.config
    family = "moe" if service.card.moe else "dense"
    return {
        "general.architecture": family,
        "general.parameter_count": service.model.num_parameters,
        f"{family}.context_length": config.max_positions,
        f"{family}.embedding_length": config.width,
        f"{family}.block_count": len(config.blocks),
        f"{family}.vocab_size": config.vocab_size,
    }


def _parameters(service: Service) -> str:
    own = service.model.sampling
    lines = [(name, getattr(own, name)) for name in ("temperature", "top_k", "top_p", "min_p")]
    lines += [("stop", json.dumps(stop, ensure_ascii=False)) for stop in own.stop]
    return "\n".join(f"{name:<30} {value}" for name, value in lines)


def _dtype(service: Service) -> str:
    return str(service.model.model.embed.weight.dtype).removeprefix("torch.").upper()


def _size(parameters: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)
