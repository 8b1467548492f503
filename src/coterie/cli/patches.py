"""`coterie patch`: put expert patches on their base, look into them, compare them, take them off."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.patch import Patch, apply_patches, check_base, read_patch
from coterie.checkpoints.directory import (
    Loaded,
    load_model,
    locate,
    read_config,
    read_json,
    save_model,
    stored_dtype,
)
from coterie.config import CheckpointError


def apply(base: str, patches: list[str], out: str, as_json: bool) -> None:
    """Write the base with its patches as a whole checkpoint, in the precision it is stored in."""
    loaded = _load(base)
    applied = apply_patches(loaded.model, [read_patch(path) for path in patches])
    _save(loaded, out, {"parent": str(base), "patches": [str(Path(path).resolve()) for path in patches]})
    replaced = sum(patch.patch.num_parameters for patch in applied)
    _answer({"out": out, "patches": len(applied), "replaced_parameters": replaced}, as_json)


def remove(model: str, patch_path: str, base: str, out: str, as_json: bool) -> None:
    """Write the model without the patch: where it holds the patch's values it gets the base's back."""
    loaded, original, patch = _load(model), _load(base), read_patch(patch_path)
    check_base(original.model, patch)
    own, before = dict(loaded.model.named_parameters()), dict(original.model.named_parameters())
    with torch.no_grad():
        for name, tensor in patch.tensors.items():
            chosen = patch.chosen(name)
            places: Any = slice(None) if chosen is None else list(chosen)
            if name not in own or not torch.equal(own[name][places], tensor.to(own[name].dtype)):
                raise CheckpointError(
                    f"{model}: '{name}' does not hold the patch's values, so it cannot be taken off"
                )
            own[name][places] = before[name][places].to(own[name].dtype)
    _save(loaded, out, {"parent": str(model), "removed_patch": str(Path(patch_path).resolve())})
    _answer({"out": out, "restored_parameters": patch.num_parameters}, as_json)


def inspect(path: str, as_json: bool) -> None:
    """Print what a patch holds: experts by layer, parameters, bytes, its base."""
    patch = read_patch(path)
    facts = {
        "family": patch.family,
        "base": patch.origin,
        "base_sha256": patch.base.exact,
        "experts": {str(layer): list(chosen) for layer, chosen in patch.selection.experts.items()},
        "shared_experts": patch.selection.shared_experts,
        "non_expert_modules": patch.selection.non_expert_modules,
        "parameters": patch.num_parameters,
        "bytes": sum(file.stat().st_size for file in Path(path).iterdir()),
    }
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{path}: {patch.selection.count} experts of {patch.origin} ({patch.family})")
    for layer, chosen in patch.selection.experts.items():
        print(f"  layer {layer}: experts {', '.join(map(str, chosen))}")
    whole = [name for name in patch.tensors if patch.chosen(name) is None]
    if whole:
        print(f"  and {len(whole)} tensors that are no routed experts")
    print(f"parameters   {patch.num_parameters:,}, {facts['bytes']:,} bytes")
    print(f"base         weights hash to {patch.base.exact[:12]}")


def diff(a: str, b: str, as_json: bool) -> None:
    """Compare two patches of one base, expert by expert; or say how far one (`a`) moves its base (`b`)."""
    one = read_patch(a)
    if (Path(b) / "patch.json").is_file():
        facts = _two_patches(one, read_patch(b))
    else:
        facts = _against_base(one, b)
    if as_json:
        print(json.dumps(facts))
        return
    for key in ("only_in_a", "only_in_b"):
        if facts.get(key):
            print(f"{key.replace('_', ' ')}: {', '.join(facts[key])}")
    for place, distance in facts["distance"].items():
        print(f"  {place:<40} {distance:.4f}")
    print(f"relative distance of all values: {facts['total']:.4f}")


def _two_patches(one: Patch, other: Patch) -> dict[str, Any]:
    if not one.base.matches(other.base):
        raise CheckpointError("patch diff: the two are of different bases; compare patches of one base")
    a, b = _slices(one), _slices(other)
    return {
        "only_in_a": sorted(a.keys() - b.keys()),
        "only_in_b": sorted(b.keys() - a.keys()),
        **_distances({key: (a[key], b[key]) for key in a if key in b}),
    }


def _against_base(patch: Patch, base: str) -> dict[str, Any]:
    loaded = _load(base)
    check_base(loaded.model, patch)
    own = dict(loaded.model.named_parameters())
    before = {
        name: own[name].detach()
        if (chosen := patch.chosen(name)) is None
        else own[name].detach()[list(chosen)]
        for name in patch.tensors
    }
    changed, unchanged = _slices(patch), _slices(patch, before)
    return _distances({key: (changed[key], unchanged[key]) for key in changed})


def _slices(patch: Patch, tensors: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """`{place: values}` with one place per expert and tensor, in words."""
    found = {}
    for name, tensor in (patch.tensors if tensors is None else tensors).items():
        chosen = patch.chosen(name)
        if chosen is None:
            found[name] = tensor
        else:
            found |= {f"{name}[{expert}]": part for expert, part in zip(chosen, tensor, strict=True)}
    return found


def _distances(pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Any]:
    """Length of the difference over the length of the second, place by place and over all."""
    squares = {
        key: (float((a.double() - b.double()).square().sum()), float(b.double().square().sum()))
        for key, (a, b) in pairs.items()
    }
    moved, length = (sum(column) for column in zip(*squares.values(), strict=True)) if squares else (0.0, 1.0)
    distance = {key: (d / max(n, 1e-30)) ** 0.5 for key, (d, n) in squares.items()}
    return {"distance": distance, "total": (moved / max(length, 1e-30)) ** 0.5}


def _load(path: str) -> Loaded:
    directory = locate(path)
    return load_model(directory, dtype=stored_dtype(directory, read_config(directory)))


def _save(loaded: Loaded, out: str, extra: dict[str, Any]) -> None:
    kept = {key: value for key, value in loaded.manifest.items() if key not in ("format", "files", "sha256")}
    stops = None
    generation = loaded.path / "generation_config.json"
    if generation.is_file():
        ends = read_json(generation).get("eos_token_id")
        stops = None if ends is None else [ends] if isinstance(ends, int) else ends
    save_model(out, loaded.model, loaded.tokenizer, extra=kept | extra, stop_ids=stops)


def _answer(facts: dict[str, Any], as_json: bool) -> None:
    print(
        json.dumps(facts)
        if as_json
        else "\n".join(f"{key.replace('_', ' ')}: {v}" for key, v in facts.items())
    )
    sys.stdout.flush()
