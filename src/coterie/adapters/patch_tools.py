"""Operations on expert patch directories: apply to a checkpoint, remove from one, describe, compare.

The results are records; the command line prints them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.own_templates import adopt_templates
from coterie.adapters.patch import Patch, apply_patches, check_patch_base, is_patch, read_patch
from coterie.checkpoints.checkpoint import Checkpoint, Loaded
from coterie.checkpoints.commit import read_manifest
from coterie.checkpoints.directory import save_model
from coterie.config import CheckpointError
from coterie.contamination.lineage import joined


@dataclass(frozen=True)
class PatchFacts:
    """The content of a patch.

    `experts`: layer -> experts. `whole`: tensors replaced whole. `bytes`: on disk.
    """

    family: str
    base: str
    base_sha256: str
    experts: dict[int, tuple[int, ...]]
    shared_experts: bool
    non_expert_modules: bool
    whole: tuple[str, ...]
    parameters: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON types, without the names of `whole`."""
        facts = asdict(self) | {"experts": {str(layer): list(ids) for layer, ids in self.experts.items()}}
        del facts["whole"]
        return facts


@dataclass(frozen=True)
class PatchDifference:
    """How far two sets of values are apart, relative to the length of the second.

    `distance`: by place (a tensor, or one expert of it); `total`: over all places. `only_in_a`, `only_in_b`:
    places that one patch alone replaces (None when a patch is compared with its base).
    """

    distance: dict[str, float]
    total: float
    only_in_a: tuple[str, ...] | None = None
    only_in_b: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON types."""
        only = {"only_in_a": self.only_in_a, "only_in_b": self.only_in_b}
        listed = {key: list(places) for key, places in only.items() if places is not None}
        return listed | {"distance": self.distance, "total": self.total}


def apply_to_checkpoint(base: str | Path | Checkpoint, patches: Sequence[str | Path], out: str | Path) -> int:
    """Write `base` with its patches as a whole checkpoint, in the precision it is stored in.

    Returns the number of replaced parameters. Errors: `CheckpointError` for a patch of another base, patches
    that overlap, or an `out` that holds something else.
    """
    loaded = _load(base)
    applied = apply_patches(loaded.model, [read_patch(path) for path in patches])
    for path in patches:
        adopt_templates(loaded.checkpoint, path)
    named = {"parent": loaded.checkpoint.name, "patches": [str(Path(path).resolve()) for path in patches]}
    stages = joined([loaded.checkpoint.manifest, *(read_manifest(Path(path)) for path in patches)])
    _save(loaded, out, named | stages)
    return sum(one.patch.num_parameters for one in applied)


def remove_from_checkpoint(
    model: str | Path | Checkpoint, patch_path: str | Path, base: str | Path | Checkpoint, out: str | Path
) -> int:
    """Write `model` without the patch: its places get the values of `base` back.

    Returns the number of restored parameters. Errors: `CheckpointError` when `model` does not hold the
    patch's values, or `base` is not the patch's base.
    """
    loaded, original, patch = _load(model), _load(base), read_patch(patch_path)
    check_patch_base(original.model, patch)
    own, before = dict(loaded.model.named_parameters()), dict(original.model.named_parameters())
    with torch.no_grad():
        for name, tensor in patch.tensors.items():
            chosen = patch.chosen(name)
            places: Any = slice(None) if chosen is None else list(chosen)
            if name not in own or not torch.equal(own[name][places], tensor.to(own[name].dtype)):
                raise CheckpointError(
                    f"{loaded.path}: '{name}' does not hold the patch's values, so it cannot be removed"
                )
            own[name][places] = before[name][places].to(own[name].dtype)
    _save(loaded, out, {"parent": loaded.checkpoint.name, "removed_patch": str(Path(patch_path).resolve())})
    return patch.num_parameters


def inspect_patch(path: str | Path) -> PatchFacts:
    """Read a patch and describe it. Errors: `CheckpointError` for a directory that is not a whole patch."""
    patch = read_patch(path)
    return PatchFacts(
        family=patch.family,
        base=patch.origin,
        base_sha256=patch.base.exact,
        experts=dict(patch.selection.experts),
        shared_experts=patch.selection.shared_experts,
        non_expert_modules=patch.selection.non_expert_modules,
        whole=tuple(name for name in patch.tensors if patch.chosen(name) is None),
        parameters=patch.num_parameters,
        bytes=sum(file.stat().st_size for file in Path(path).expanduser().iterdir()),
    )


def diff_patches(a: str | Path, b: str | Path | Checkpoint) -> PatchDifference:
    """Compare two patches of one base expert by expert, or a patch `a` with its base `b`.

    Errors: `CheckpointError` for patches of different bases, or a base the patch was not made for.
    """
    one = read_patch(a)
    if isinstance(b, Checkpoint) or not is_patch(b):
        return _against_base(one, b)
    other = read_patch(b)
    if not one.base.matches(other.base):
        raise CheckpointError(f"{a} and {b}: are patches of different bases; compare patches of one base")
    ours, theirs = _slices(one, one.tensors), _slices(other, other.tensors)
    distance, total = _distances({key: (ours[key], theirs[key]) for key in ours if key in theirs})
    only_in_a, only_in_b = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    return PatchDifference(distance, total, tuple(only_in_a), tuple(only_in_b))


def _against_base(patch: Patch, base: str | Path | Checkpoint) -> PatchDifference:
    loaded = _load(base)
    check_patch_base(loaded.model, patch)
    own = {name: parameter.detach() for name, parameter in loaded.model.named_parameters()}
    before = {}
    for name in patch.tensors:
        chosen = patch.chosen(name)
        before[name] = own[name] if chosen is None else own[name][list(chosen)]
    changed, unchanged = _slices(patch, patch.tensors), _slices(patch, before)
    return PatchDifference(*_distances({key: (changed[key], unchanged[key]) for key in changed}))


def _slices(patch: Patch, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by place: `name` for a whole tensor, `name[expert]` for each chosen expert."""
    found = {}
    for name, tensor in tensors.items():
        chosen = patch.chosen(name)
        if chosen is None:
            found[name] = tensor
        else:
            found |= {f"{name}[{expert}]": part for expert, part in zip(chosen, tensor, strict=True)}
    return found


def _distances(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[dict[str, float], float]:
    """Norm of the difference over the norm of the second, by place and over all."""
    squares = {
        key: (float((a.double() - b.double()).square().sum()), float(b.double().square().sum()))
        for key, (a, b) in pairs.items()
    }
    moved, length = (sum(column) for column in zip(*squares.values(), strict=True)) if squares else (0.0, 1.0)
    distance = {key: (d / max(n, 1e-30)) ** 0.5 for key, (d, n) in squares.items()}
    return distance, (moved / max(length, 1e-30)) ** 0.5


def _load(source: str | Path | Checkpoint) -> Loaded:
    checkpoint = Checkpoint.open(source)
    return checkpoint.load(checkpoint.stored_dtype)


def _save(loaded: Loaded, out: str | Path, extra: dict[str, Any]) -> None:
    origin = loaded.checkpoint
    about = origin.travelling_manifest() | extra
    save_model(out, loaded.model, origin.tokenizer, extra=about, generation=origin.generation)
