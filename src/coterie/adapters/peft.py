"""Encode an adapter as PEFT's tensors and `adapter_config.json`, and decode it without losing any tensor.

`target_modules` name the linear layers, `target_parameters` the experts and routers, which are not linear
layers in transformers 5. In a mixture of experts the dense and shared feed-forwards are named as parameters
too, because PEFT takes module names that end in `gate_proj` for the experts of older files there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.attach import Adapter, Factors
from coterie.adapters.peft_config import FOREIGN, check_settings, check_tensors, unties
from coterie.adapters.peft_joined import join_factors, join_full, split_factors, split_full
from coterie.adapters.peft_layouts import (
    Layout,
    is_swapped,
    num_experts_of,
    read_fused,
    read_single,
    write_fused,
    write_single,
)
from coterie.adapters.peft_names import Names, Place
from coterie.adapters.peft_settings import path_pattern
from coterie.config import CheckpointError, ModelConfig

PREFIX = "base_model.model."
# The `peft_version` written for each layout (the first with it), for readers that do not know our stamp.
VERSIONS: dict[Layout, str] = {"peft": "0.19.1", "peft019": "0.19.0", "peft018": "0.18.1"}

_PART = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_MIXERS = ("self_attn", "linear_attn", ".mamba", ".mixer")
_BARE = (".sinks", ".A_log", ".dt_bias", ".D")  # parameters outside of modules, which PEFT cannot save
_SINGLE = re.compile(r".+\.experts\.\d+\.\w+")


def encode(
    adapter: Adapter, config: ModelConfig, layout: Layout, base: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Tensors, `adapter_config.json`, and the parts of the adapter that PEFT cannot express.

    Where there are such parts, the config names a type that PEFT refuses to load.
    """
    names = Names(config)
    tensors: dict[str, Tensor] = {}
    modules: dict[str, tuple[int, float]] = {}
    parameters: dict[str, tuple[int, float]] = {}
    reasons = []
    for layer, factors in join_factors(names, adapter.factors)[0].items():
        place, how = names.places[layer], (factors.rank, factors.alpha)
        if place.of_experts and layout == "per-expert":
            part = write_single(names, layer, factors)
            modules |= {_PART.fullmatch(key).group(1): how for key in part}  # type: ignore[union-attr]
        elif place.of_experts:
            part = write_fused(place, factors, config, layout)
            parameters[place.parameter] = how
        else:
            part = {f"{place.path}.lora_A.weight": factors.a, f"{place.path}.lora_B.weight": factors.b}
            if factors.magnitude is not None:
                part[f"{place.path}.lora_magnitude_vector"] = factors.magnitude
            (parameters if _as_parameter(names, place, layout) else modules)[
                _target(names, place, layout)
            ] = how
        if factors.magnitude is not None and (place.parameter in parameters or place.kind == "router"):
            reasons.append(f"DoRA on {place.kind if place.kind == 'router' else place.path.split('.')[-1]}")
        if (leaf := place.path.rpartition(".")[2]) in names.refused:
            reasons.append(f"factors on {leaf} of a {config.family} model")
        tensors |= part
    full, saved, more = _encode_full(adapter, names)
    if not adapter.factors:
        reasons.append("an adapter without factors")
    reasons = sorted({*reasons, *more})
    data = _config(names, modules, parameters, layout) | {
        "base_model_name_or_path": base,
        "modules_to_save": saved or None,
        "ensure_weight_tying": config.tie_embeddings and "embed.weight" in adapter.full,
        "peft_type": FOREIGN if reasons else "LORA",
        "use_dora": any(factors.magnitude is not None for factors in adapter.factors.values()),
    }
    return {PREFIX + key: tensor.contiguous() for key, tensor in (tensors | full).items()}, data, reasons


def _as_parameter(names: Names, place: Place, layout: Layout) -> bool:
    if layout == "per-expert":  # as in transformers 4, where all of them are linear layers
        return False
    return place.kind != "linear" or (names.is_moe and place.name.endswith((".gate", ".up", ".down")))


def _target(names: Names, place: Place, layout: Layout) -> str:
    return place.parameter if _as_parameter(names, place, layout) else place.path


def _config(
    names: Names,
    modules: Mapping[str, tuple[int, float]],
    parameters: Mapping[str, tuple[int, float]],
    layout: Layout,
) -> dict[str, Any]:
    every = {**modules, **parameters}
    ranks, alphas = Counter(r for r, _ in every.values()), Counter(a for _, a in every.values())
    rank = ranks.most_common(1)[0][0] if ranks else 1
    alpha = alphas.most_common(1)[0][0] if alphas else 1.0
    known = [_target(names, place, layout) for place in names.places.values()]
    if layout == "per-expert":
        experts = {place.path for place in names.places.values() if place.of_experts}
        known = [path for path in known if path not in experts] + list(names.expert_modules)
    patterns = names.shorten(every, known)
    result: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,  # PEFT allows none with target_parameters, and using an adapter needs none
        "rank_pattern": {path: r for path, (r, _) in patterns.items() if r != rank},
        "alpha_pattern": {path: _plain(a) for path, (_, a) in patterns.items() if a != alpha},
        "target_modules": sorted(names.shorten(dict.fromkeys(modules, 0), known, leaves=True)),
        "target_parameters": sorted(names.shorten(dict.fromkeys(parameters, 0), known)) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return result | ({"peft_version": VERSIONS[layout]} if layout in VERSIONS else {})


def _plain(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _encode_full(adapter: Adapter, names: Names) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Weights trained in full as PEFT's `modules_to_save`: tensors, modules, parts PEFT cannot express."""
    tensors: dict[str, Tensor] = {}
    whole = join_full(names, adapter.full)
    ours = {key: name for name, key in names.parameters.items()}
    for key, tensor in whole.items():
        name = ours[key]
        experts = ".experts." in name and name.endswith(".weight")
        tensors[key] = tensor.mT if experts and names.transposed else tensor
        if name == "embed.weight" and names.config.tie_embeddings:
            # PEFT replaces the embedding by its copy, which a tied head does not see: the head needs a copy.
            tensors[_tied_head(key)] = tensor.clone()
    modules = {_module(key) for key in tensors}
    known = {_module(key) for key in names.parameters.values()} | modules
    # A module with parameters next to its matrix (Gemma 4's router) is saved whole, the matrix inside of it.
    outer = {module for module in modules if not module.endswith(_MIXERS)}
    modules = {module for module in modules if _module(module) not in outer}
    saved = sorted(names.shorten(dict.fromkeys(modules, 0), sorted(known)))
    bare = [key for key in tensors if key.endswith(_BARE)]
    reasons = [f"{key.rpartition('.')[2]} trained in full" for key in bare]
    return (
        tensors,
        [module for module in saved if not module.endswith(_MIXERS)],
        reasons,
    )


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _tied_head(embedding: str) -> str:
    return embedding.replace("model.embed_tokens.weight", "lm_head.weight")


def decode(
    tensors: Mapping[str, Tensor],
    data: Mapping[str, Any],
    config: ModelConfig,
    layout: Layout,
    where: str,
    chosen: Mapping[str, Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[int]] | None = None,
) -> Adapter:
    """The adapter in a file's tensors.

    `chosen`: our layer -> the experts that have factors, as the stamp states them. `columns`: our layer ->
    its columns in the factors of a tensor that holds several (`peft_joined`). `where`: the directory, for
    messages. Errors: `CheckpointError` for unsupported settings and for tensors that belong to no layer.
    """
    check_settings(data, where)
    names = Names(config)
    rest = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    apart = config.tie_embeddings and unties(data, rest, names.parameters["embed.weight"])
    if apart:
        names = Names(config.model_copy(update={"tie_embeddings": False}))
    check_tensors(data, rest.keys(), names, where)
    # PEFT saves the weight of a head with factors too; it must be the base's.
    head = rest.pop("lm_head.base_layer.weight", None)
    factors: dict[str, Factors] = {}
    stems: dict[str, list[str]] = {}
    for key in rest:
        if match := _PART.fullmatch(key):
            stems.setdefault(match.group(1), []).append(key)
    single: dict[str, dict[tuple[int, int], Factors]] = {}
    places = {place.path: place for place in names.places.values() if not place.of_experts}
    for stem in sorted(stems):
        if stem in names.expert_modules:
            layer, expert, half = names.expert_modules[stem]
            single.setdefault(layer, {})[expert, half] = _one(rest, stem, [stem], data, where)
        elif stem in names.joined:
            whole = _one(rest, stem, [stem, f"{stem}.weight"], data, where)
            factors |= split_factors(names, stem, whole, columns or {})
        elif stem in places:
            place = places[stem]
            factors[place.name] = _one(rest, stem, [place.path, place.parameter], data, where)
        elif (fused := _fused_place(names, stem, stems.keys(), data)) is not None:
            factors[fused.name] = _read_experts(rest, stem, fused, data, config, layout, where, chosen)
        else:
            raise CheckpointError(
                f"{where}: '{stem}' is not a layer of this {config.family} model that takes factors"
            )
        for key in stems[stem]:
            del rest[key]
    factors |= {layer: read_single(names, layer, parts, where) for layer, parts in single.items()}
    order = {layer: number for number, layer in enumerate(names.places)}
    return Adapter(
        dict(sorted(factors.items(), key=lambda item: order[item[0]])),
        _decode_full(rest, names, where),
        {} if head is None else {"head.weight": head},
        apart,
    )


def _one(
    rest: Mapping[str, Tensor], stem: str, paths: list[str], data: Mapping[str, Any], where: str
) -> Factors:
    a, b = rest.get(f"{stem}.lora_A.weight"), rest.get(f"{stem}.lora_B.weight")
    rank, alpha = _rank_and_alpha(data, paths, where)
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or not a.shape[0] == b.shape[1] == rank:
        shapes = [None if t is None else tuple(t.shape) for t in (a, b)]
        raise CheckpointError(
            f"{where}: '{stem}' has factors {shapes[0]} and {shapes[1]}, its config says rank {rank}"
        )
    return Factors(a, b, alpha, rest.get(f"{stem}.lora_magnitude_vector"))


def _fused_place(names: Names, stem: str, stems: Set[str], data: Mapping[str, Any]) -> Place | None:
    for place in names.places.values():
        if place.reads and stem == place.stem:
            return place
        if place.kind == "down" and stem == place.stem:
            inner = f"{place.path}.base_layer" in stems
            only_first = not inner and not _targets(data, place.parameter)
            pair = (one for one in names.places.values() if one.reads and one.path == place.path)
            return next(pair) if only_first else place
    return None


def _targets(data: Mapping[str, Any], parameter: str) -> bool:
    listed = data.get("target_parameters") or [parameter]
    return any(parameter == target or parameter.endswith(f".{target}") for target in listed)


def _read_experts(
    rest: Mapping[str, Tensor],
    stem: str,
    place: Place,
    data: Mapping[str, Any],
    config: ModelConfig,
    layout: Layout,
    where: str,
    chosen: Mapping[str, Sequence[int]] | None,
) -> Factors:
    if layout == "per-expert":
        raise CheckpointError(
            f"{where}: '{stem}' holds all experts at once, which the layout 'per-expert' does not do"
        )
    rank, alpha = _rank_and_alpha(data, [place.parameter, place.path], where)
    num_experts, swapped = num_experts_of(config, place.name), is_swapped(config.family, layout)
    factors = read_fused(rest, stem, num_experts, swapped, alpha, rank, where)
    if chosen is None or place.name not in chosen:
        return factors
    if any(expert >= num_experts for expert in chosen[place.name]):
        raise CheckpointError(f"{where}: its stamp names experts of '{place.name}' beyond {num_experts}")
    index = torch.tensor(list(chosen[place.name]))
    return replace(factors, a=factors.a[index], b=factors.b[index], chosen=tuple(chosen[place.name]))


def _rank_and_alpha(data: Mapping[str, Any], paths: list[str], where: str) -> tuple[int, float]:
    rank, alpha = data.get("r"), data.get("lora_alpha")
    rank = _from_pattern(data.get("rank_pattern"), paths, rank, where)
    alpha = _from_pattern(data.get("alpha_pattern"), paths, alpha, where)
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise CheckpointError(
            f"{where}: adapter_config.json gives '{paths[0]}' rank {rank!r} and alpha {alpha!r}"
        )
    return rank, float(alpha) * (math.sqrt(rank) if data.get("use_rslora") else 1.0)


def _from_pattern(pattern: Any, paths: list[str], default: Any, where: str) -> Any:
    for key, value in (pattern or {}).items():
        if any(path_pattern(key, where).fullmatch(path) for path in paths):
            return value
    return default


def _decode_full(rest: Mapping[str, Tensor], names: Names, where: str) -> dict[str, Tensor]:
    ours = {key: name for name, key in names.parameters.items()}
    full: dict[str, Tensor] = {}
    for key, tensor in rest.items():
        name = ours.get(key)
        if (
            name is None
            and names.config.tie_embeddings
            and key == _tied_head(names.parameters["embed.weight"])
        ):
            continue  # equal to the embedding: `unties` would have separated the two
        if name is None:
            raise CheckpointError(
                f"{where}: tensor '{key}' belongs to no layer of this {names.config.family} model"
            )
        if key in names.joined_tensors:
            full |= split_full(names, key, tensor, where)
            continue
        experts = ".experts." in name and name.endswith(".weight")
        full[name] = tensor.mT.contiguous() if experts and names.transposed else tensor
    return full


def holds_fused_experts(keys: Sequence[str]) -> bool:
    """Whether a file has tensors of fused experts, which the fused layouts lay out differently."""
    return any(re.search(r"\.experts(\.base_layer)?\.lora_[AB]\.", key) for key in keys)


def holds_single_experts(keys: Sequence[str]) -> bool:
    """Whether a file has modules of single experts."""
    return any((match := _PART.fullmatch(key)) and _SINGLE.fullmatch(match.group(1)) for key in keys)
