"""`coterie patch`: print the results of operations on expert patches."""

from __future__ import annotations

import json
import sys
from typing import Any

from coterie.adapters.patch_tools import (
    apply_to_checkpoint,
    diff_patches,
    inspect_patch,
    remove_from_checkpoint,
)


def apply(base: str, patches: list[str], out: str, as_json: bool) -> None:
    """Write the base with its patches as a whole checkpoint, in the precision it is stored in."""
    replaced = apply_to_checkpoint(base, patches, out)
    _answer({"out": out, "patches": len(patches), "replaced_parameters": replaced}, as_json)


def remove(model: str, patch_path: str, base: str, out: str, as_json: bool) -> None:
    """Write the model without the patch: where it holds the patch's values it gets the base's back."""
    restored = remove_from_checkpoint(model, patch_path, base, out)
    _answer({"out": out, "restored_parameters": restored}, as_json)


def inspect(path: str, as_json: bool) -> None:
    """Print what a patch holds: experts by layer, parameters, bytes, its base."""
    facts = inspect_patch(path)
    if as_json:
        print(json.dumps(facts.to_dict()))
        return
    count = sum(map(len, facts.experts.values()))
    print(f"{path}: {count} experts of {facts.base} ({facts.family})")
    for layer, chosen in facts.experts.items():
        print(f"  layer {layer}: experts {', '.join(map(str, chosen))}")
    if facts.whole:
        print(f"  and {len(facts.whole)} tensors that are no routed experts")
    print(f"parameters   {facts.parameters:,}, {facts.bytes:,} bytes")
    print(f"base         weights hash to {facts.base_sha256[:12]}")


def diff(a: str, b: str, as_json: bool) -> None:
    """Compare two patches of one base, expert by expert; or say how far one (`a`) moves its base (`b`)."""
    found = diff_patches(a, b)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    for key, places in (("only in a", found.only_in_a), ("only in b", found.only_in_b)):
        if places:
            print(f"{key}: {', '.join(places)}")
    for place, distance in found.distance.items():
        print(f"  {place:<40} {distance:.4f}")
    print(f"relative distance of all values: {found.total:.4f}")


def _answer(facts: dict[str, Any], as_json: bool) -> None:
    print(
        json.dumps(facts)
        if as_json
        else "\n".join(f"{key.replace('_', ' ')}: {v}" for key, v in facts.items())
    )
    sys.stdout.flush()
