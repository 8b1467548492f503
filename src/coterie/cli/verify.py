"""`coterie verify`: the work behind the verb, and how its verdict reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coterie.adapters.apply import apply_in_place, base_of, is_variant
from coterie.adapters.patch import is_patch
from coterie.checkpoints.commit import MANIFEST, verify_directory
from coterie.checkpoints.directory import load_model, locate
from coterie.config import CoterieError
from coterie.proof.difference import Difference
from coterie.proof.judge import check_probes
from coterie.proof.records import load_probes
from coterie.remote.client import read_key
from coterie.verify.identity import Verdict, compare, open_side


def verify(
    a: str,
    b: str | None,
    base: str | None,
    data: str | None,
    tolerance: float | None,
    model_name: str | None,
    key_file: str | None,
    as_json: bool,
) -> None:
    """Print whether A and B are one model; exit with 0 (same), 1 (different) or 2 (could not be compared)."""
    if b is None:
        _verify_stored(a, as_json)
        return
    try:
        key = read_key(key_file)
        one, other = open_side(a, model_name, key), open_side(b, model_name, key)
        origin = open_side(base, model_name, key) if base is not None else None
        verdict = compare(one, other, origin, data, tolerance, tell)
    except CoterieError as error:
        error.exit_code = 2
        raise
    print(json.dumps(verdict.to_dict()) if as_json else "\n".join(verdict_lines(verdict)))
    if not verdict.same:
        raise SystemExit(1)


def _verify_stored(path: str, as_json: bool) -> None:
    """Check a directory, a model's or an adapter's, against its own manifest and stored probes; a patch by
    its hashes, of its files and of the base that it names.
    """
    try:
        variant, patch = is_variant(path), is_patch(path)
        directory = Path(path).expanduser() if variant else locate(path)
        if not patch and load_probes(directory) is None:
            raise CoterieError(
                f"{path}: holds no probes; give a second model to compare with, or save this one with probes"
            )
        loaded = load_model(locate(base_of(path)) if variant else directory)
        if variant:
            apply_in_place(loaded.model, directory, loaded.path, loaded.tokenizer)
    except CoterieError as error:
        error.exit_code = 2
        raise
    if patch:
        whole = f"same: {path} is whole, and {loaded.path} is the base that it was made for"
        print(json.dumps({"a": path, "same": True, "base": str(loaded.path)}) if as_json else whole)
        return
    if (directory / MANIFEST).is_file():
        tell("hashing files")
        verify_directory(directory)
    found = check_probes(directory, loaded.model, loaded.tokenizer)
    if as_json:
        print(json.dumps({"a": path, "same": True, "difference": found.to_dict()}))
    else:
        print(f"same: {path} answers its probes as when it was saved")
        print("\n".join(difference_lines(found)))


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict in words, reasons first."""
    lines = ["same: A and B are one model to their users" if verdict.same else "DIFFERENT"]
    lines += [f"  because {reason}" for reason in verdict.reasons]
    lines += [f"A                 {verdict.a}", f"B                 {verdict.b}"]
    lines += difference_lines(verdict.difference, verdict.tolerance)
    if verdict.gravity is not None:
        lines.append(f"base gravity      {verdict.gravity:.3f} (1: A is the tuned model B, 0: A is the base)")
    if verdict.tensors is not None:
        walk = verdict.tensors
        first = f", the first is '{walk.first}': {walk.what}" if walk.first is not None else ""
        rounded = f", {walk.rounded} compared after rounding" if walk.rounded else ""
        lines.append(f"tensors           {walk.differing} of {walk.compared} differ{first}{rounded}")
    if verdict.unreached:
        listed = ", ".join(f"{count} in layer {layer}" for layer, count in verdict.unreached.items())
        lines.append(f"not probed        experts that no probe reached: {listed}")
    return lines + [f"note              {note}" for note in verdict.notes]


def difference_lines(found: Difference, tolerance: float | None = None) -> list[str]:
    """The figures of a comparison of outputs, one a line."""
    allowed = "" if tolerance is None else f", tolerance {tolerance:g}"
    lines = [
        f"log-probability   {found.mean_logprob:.3g} mean difference, {found.max_logprob:.3g} largest "
        f"({found.positions:,} positions{allowed})"
    ]
    if found.kl is not None:
        lines.append(f"KL                {found.kl:.3g} nats per position")
    if found.top1 is not None:
        lines.append(f"top-1 agreement   {found.top1:.2%}")
    if found.routing:
        lines.append(f"routing           {_routing(found.routing)}")
    return lines


def _routing(shares: dict[int, float]) -> str:
    """Agreement by layer: the lowest, and all of them where they are few."""
    layer = min(shares, key=lambda index: shares[index])
    if shares[layer] == 1:
        return "the same experts in every layer"
    listed = ", ".join(f"{index}: {share:.1%}" for index, share in shares.items())
    return f"lowest {shares[layer]:.2%} in layer {layer}" + (
        f"; by layer {listed}" if len(shares) <= 12 else ""
    )


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr)
