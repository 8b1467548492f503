"""A Merkle tree over the tensors of a model, with one node for each layer and for each routed expert.

A leaf is a tensor's published name, type, shape and SHA-256. A fused tensor of all experts has one leaf for
each of them. The tree is the same however the tensors are spread over files, and two trees say where two
models differ, down to single experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.config import CoterieError
from coterie.evidence.canonical import canonical, merkle_root

SCHEMA = "coterie.weight_tree/v1"
MODEL = "model"  # the part outside all layers: embedding, last norm, head
_NAMED = 6  # tensors that a line names


@dataclass(frozen=True, order=True)
class TreePart:
    """A node of the tree: what of `layer` belongs to one routed expert, or (-1) to none.

    `layer`: its number, `mtp 0` for a layer that predicts further tokens, or `model`.
    """

    layer: str
    expert: int = -1

    @property
    def order(self) -> tuple[int, int, int]:
        """For sorting: the model first, then the layers by number, layers for prediction last."""
        word, _, number = self.layer.rpartition(" ")
        kind = 0 if self.layer == MODEL else 2 if word else 1
        return kind, int(number) if number.isdecimal() else -1, self.expert


@dataclass(frozen=True)
class TensorLeaf:
    """One tensor: `dtype` as safetensors names it (`CODED`: held in codes, the bytes are its numbers)."""

    name: str
    part: TreePart
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def content(self) -> bytes:
        """What is hashed."""
        return canonical([self.name, self.dtype, list(self.shape), self.sha256])


@dataclass(frozen=True)
class WeightTree:
    """The digests of a model's tensors.

    `parts`: the Merkle root of the leaves of each part. `leaves`: by name; empty for a tree that was read
    from its short form. `notes`: what the reader of the root should know, one line each.
    """

    parts: Mapping[TreePart, str]
    leaves: Mapping[str, TensorLeaf] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, leaves: Iterable[TensorLeaf], notes: Iterable[str] = ()) -> WeightTree:
        """The tree of leaves in any order. Errors: `CoterieError` for a name that comes twice."""
        named: dict[str, TensorLeaf] = {}
        for leaf in leaves:
            if leaf.name in named:
                raise CoterieError(f"weights: the tensor '{leaf.name}' comes twice")
            named[leaf.name] = leaf
        grouped: dict[TreePart, list[TensorLeaf]] = {}
        for name in sorted(named):
            grouped.setdefault(named[name].part, []).append(named[name])
        parts = {part: merkle_root(leaf.content for leaf in grouped[part]) for part in _ordered(grouped)}
        return cls(parts, {name: named[name] for name in sorted(named)}, tuple(notes))

    @property
    def root(self) -> str:
        """The digest of all tensors, `sha256:...`."""
        layers = self.layers
        nodes = []
        for layer, parts in layers.items():
            inner = merkle_root(canonical([part.expert, self.parts[part]]) for part in parts)
            nodes.append(canonical([layer, inner]))
        return merkle_root(nodes)

    @property
    def layers(self) -> dict[str, list[TreePart]]:
        """The parts of each layer, in order."""
        found: dict[str, list[TreePart]] = {}
        for part in _ordered(self.parts):
            found.setdefault(part.layer, []).append(part)
        return found

    def changed(self, other: WeightTree) -> list[TreePart]:
        """The parts that differ, or that one of the trees lacks, in order."""
        every = {*self.parts, *other.parts}
        return [part for part in _ordered(every) if self.parts.get(part) != other.parts.get(part)]

    def differences(self, other: WeightTree) -> list[str]:
        """Where the two models differ, one line for each layer; empty for the same weights.

        Of a layer without its experts, the tensors are named where both trees have their leaves.
        """
        by_layer: dict[str, list[TreePart]] = {}
        for part in self.changed(other):
            by_layer.setdefault(part.layer, []).append(part)
        return [self._line(other, layer, parts) for layer, parts in by_layer.items()]

    def _line(self, other: WeightTree, layer: str, parts: list[TreePart]) -> str:
        name = "outside the layers" if layer == MODEL else f"layer {layer}"
        if layer not in other.layers or layer not in self.layers:
            return f"{name}: only one of the two has it"
        experts = [part.expert for part in parts if part.expert >= 0]
        said = []
        if experts:
            every = {*self.layers[layer], *other.layers[layer]} - {TreePart(layer)}
            whole = len(experts) == len(every) and len(every) > 1
            listed = "all experts" if whole else f"expert{'s' * (len(experts) > 1)} {_listed(experts)}"
            said.append(listed)
        if len(parts) > len(experts):
            said.append(self._tensors(other, TreePart(layer)))
        return f"{name}: {' and '.join(said)}"

    def _tensors(self, other: WeightTree, part: TreePart) -> str:
        if not (self.leaves and other.leaves):
            return "what every token passes" if part.layer != MODEL else "embedding, last norm or head"
        mine, theirs = (
            {name: leaf for name, leaf in tree.leaves.items() if leaf.part == part} for tree in (self, other)
        )
        names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"{', '.join(names[:_NAMED])}{more}"

    def to_dict(self, tensors: bool = False) -> dict[str, Any]:
        """JSON types: the root and the digest of every part; with `tensors`, of every tensor too."""
        layers: dict[str, dict[str, Any]] = {}
        for layer, parts in self.layers.items():
            entry = layers.setdefault(layer, {})
            for part in parts:
                if part.expert < 0:
                    entry["rest"] = self.parts[part]
                else:
                    entry.setdefault("experts", {})[str(part.expert)] = self.parts[part]
        data: dict[str, Any] = {"schema": SCHEMA, "root": self.root, "layers": layers}
        if self.notes:
            data["notes"] = list(self.notes)
        if tensors:
            data["tensors"] = {
                leaf.name: {"dtype": leaf.dtype, "shape": list(leaf.shape), "sha256": leaf.sha256}
                for leaf in self.leaves.values()
            }
        return data

    @classmethod
    def from_dict(cls, data: Any, where: str) -> WeightTree:
        """The tree of its JSON form, without leaves; the root is computed again.

        Errors: `CoterieError` for another schema, and for a root that its parts do not have.
        """
        try:
            if data["schema"] != SCHEMA:
                raise CoterieError(f"{where}: is not a tree of weights ({SCHEMA})")
            parts = dict(_read_parts(data["layers"]))
            tree = cls(parts, notes=tuple(str(note) for note in data.get("notes", ())))
            stated = data["root"]
        except (TypeError, KeyError, ValueError, AttributeError):
            raise CoterieError(f"{where}: is not a tree of weights ({SCHEMA})") from None
        if tree.root != stated:
            raise CoterieError(f"{where}: its root is not that of its parts; it was changed by hand")
        return tree


def _read_parts(layers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[TreePart, str]]:
    for layer, entry in layers.items():
        if "rest" in entry:
            yield TreePart(layer), str(entry["rest"])
        for expert, digest in entry.get("experts", {}).items():
            yield TreePart(layer, int(expert)), str(digest)


def _ordered(parts: Iterable[TreePart]) -> list[TreePart]:
    return sorted(parts, key=lambda part: part.order)


def _listed(numbers: list[int]) -> str:
    """`3`, `3 and 17`, `1, 3 and 17`; of many, the first and how many more."""
    words = [str(number) for number in numbers]
    if len(words) > 2 * _NAMED:
        return f"{', '.join(words[:_NAMED])} and {len(words) - _NAMED} more"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
