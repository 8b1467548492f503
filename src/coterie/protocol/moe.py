"""Experts through the API: a request's control of the routers, a reply's routing, the load of the experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.config import ConfigError
from coterie.config.speculate import Speculate
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.service import Service
from coterie.infer.request import RequestOptions, TokenEvent
from coterie.nn.steering import LayerControl, RouterControl, check_control
from coterie.protocol.body import read
from coterie.protocol.requests import Generation, MoeOptions
from coterie.protocol.strict_json import parse

_SUMMARY_LAYERS = 4


def options_of(service: Service, body: Generation, variant: str) -> RequestOptions:
    """The engine's options for a request to `variant`. Errors: `ApiError` 400 for unknown experts."""
    moe = body.moe or MoeOptions()
    if moe.profile is not None:
        if moe.profile not in service.profiles:
            raise ApiError(400, "/moe/profile: no profile of this name", "profile_not_found", "/moe/profile")
        if moe.mask or moe.bias or moe.top_k:
            raise invalid("/moe/profile: goes with neither mask, bias nor top_k", "/moe/profile")
    if moe.routing != "off" and not service.model.model.routers():
        raise invalid("/moe/routing: the model is dense; there is no routing", "/moe/routing")
    return RequestOptions(
        control=control_of(service, moe) if moe.profile is None else service.profiles[moe.profile],
        routing=moe.routing != "off",
        priority=body.priority or 0,
        salt=body.cache_salt or "",
        variant=variant,
        speculate=_speculated(service, body.speculate),
    )


def _speculated(service: Service, mode: Speculate | None) -> Speculate | None:
    """What drafts are made from. Errors: `ApiError` 400 for what the model cannot have."""
    try:
        service.engine.speculation.check(mode or "off", "/speculate:")
    except ConfigError as error:
        raise invalid(str(error), "/speculate") from None
    return mode


def control_of(service: Service, moe: MoeOptions) -> RouterControl:
    """Masks and biases in the engine's form. Errors: `ApiError` 400."""
    layers: dict[int, LayerControl] = {}
    for key, experts in (moe.mask or {}).items():
        layers[_number(key, "/moe/mask")] = LayerControl(masked=tuple(sorted(set(experts))))
    for key, values in (moe.bias or {}).items():
        layer, pointer = _number(key, "/moe/bias"), f"/moe/bias/{key[:20]}"
        pairs = tuple(sorted((_number(expert, pointer), value) for expert, value in values.items()))
        layers[layer] = LayerControl(layers.get(layer, LayerControl()).masked, pairs)
    control = RouterControl(tuple(sorted(layers.items(), key=lambda pair: pair[0])), moe.top_k)
    try:
        check_control(control, service.model.model.routers())
    except ConfigError as error:
        raise invalid(f"/moe: {str(error).removeprefix('moe: ')}", "/moe") from None
    return control


def read_profile(service: Service, path: str) -> RouterControl:
    """The control in a JSON file that holds a `moe` object, checked against the model.

    Errors: `ConfigError`, one line, for a file that cannot be read or does not fit the model.
    """
    try:
        moe, _ = read(MoeOptions, parse(Path(path).read_bytes()))
        return control_of(service, moe)
    except OSError as error:
        raise ConfigError(f"profile {path}: cannot be read ({error.strerror})") from None
    except ApiError as error:
        raise ConfigError(f"profile {path}: {str(error).replace('the body', 'it')}") from None


def _number(key: str, pointer: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 8):
        raise invalid(f"{pointer}: keys must be numbers, as text", pointer)
    return int(key)


def routing_of(kind: str, events: Sequence[TokenEvent]) -> dict[str, Any] | None:
    """The `moe` object of a choice: the experts with which each token was drawn; None for `off`.

    `summary`: the best expert of at most four layers, evenly spread; `full`: all chosen experts of every
    layer.
    """
    if kind == "off":
        return None
    tokens: list[dict[str, Any]] = []
    layers: list[int] = []
    for event in events:
        if event.routing is None:
            continue
        rows = event.routing.layers
        if kind == "summary" and len(rows) > _SUMMARY_LAYERS:
            step = (len(rows) - 1) / (_SUMMARY_LAYERS - 1)
            rows = tuple(rows[round(i * step)] for i in range(_SUMMARY_LAYERS))
        most = 1 if kind == "summary" else None
        layers = [layer for layer, _, _ in rows]
        tokens.append(
            {
                "id": event.token,
                "experts": [experts[:most] for _, experts, _ in rows],
                "weights": [[round(weight, 4) for weight in weights[:most]] for _, _, weights in rows],
            }
        )
    return {"routing": kind, "layers": layers, "tokens": tokens}
