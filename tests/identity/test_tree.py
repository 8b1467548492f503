"""The Merkle tree of weights: its root, what differs, and its JSON form."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coterie.config import CoterieError
from coterie.identity.tree import MODEL, TensorLeaf, TreePart, WeightTree


def leaves(experts: int = 4, layers: int = 3) -> list[TensorLeaf]:
    found = [TensorLeaf("embed", TreePart(MODEL), "F32", (4, 2), "e" * 64)]
    for layer in range(layers):
        found.append(TensorLeaf(f"l{layer}.norm", TreePart(str(layer)), "F32", (2,), f"{layer}" * 64))
        for expert in range(experts):
            part = TreePart(str(layer), expert)
            found.append(TensorLeaf(f"l{layer}.{expert}.up", part, "F32", (2, 2), f"{expert}" * 64))
            found.append(TensorLeaf(f"l{layer}.{expert}.down", part, "F32", (2, 2), f"{expert}" * 64))
    return found


def changed(found: list[TensorLeaf], *names: str) -> WeightTree:
    return WeightTree.of(replace(leaf, sha256="f" * 64) if leaf.name in names else leaf for leaf in found)


def test_the_root_does_not_depend_on_the_order_and_depends_on_everything_else() -> None:
    found = leaves()
    tree = WeightTree.of(found)
    shuffled = found[:]
    random.Random(0).shuffle(shuffled)
    assert WeightTree.of(shuffled).root == tree.root
    others = [
        WeightTree.of(found[1:]),
        *(
            WeightTree.of([replace(found[5], **change), *found[:5], *found[6:]])
            for change in (
                {"name": "x"}, {"dtype": "BF16"}, {"shape": (4, 1)}, {"sha256": "f" * 64},
                {"part": TreePart("1", 2)},
            )
        ),
    ]  # fmt: skip
    assert len({tree.root, *(other.root for other in others)}) == 7
    assert tree.root.startswith("sha256:") and len(tree.root) == 71


def test_a_difference_names_layers_and_experts() -> None:
    found = leaves(experts=20)
    tree = WeightTree.of(found)
    assert tree.differences(WeightTree.of(found)) == []
    assert tree.differences(changed(found, "l2.3.up")) == ["layer 2: expert 3"]
    assert tree.differences(changed(found, "l2.3.up", "l2.17.down")) == ["layer 2: experts 3 and 17"]
    some = changed(found, *(f"l0.{n}.up" for n in (1, 4, 7)), "l1.norm", "l1.0.up", "embed")
    assert tree.differences(some) == [
        "outside the layers: embed", "layer 0: experts 1, 4 and 7", "layer 1: expert 0 and l1.norm"
    ]  # fmt: skip
    assert tree.differences(changed(found, *(f"l0.{n}.up" for n in range(20)))) == ["layer 0: all experts"]
    many = changed(found, *(f"l0.{n}.up" for n in range(15)))
    assert tree.differences(many) == ["layer 0: experts 0, 1, 2, 3, 4, 5 and 9 more"]
    fewer = WeightTree.of(leaf for leaf in found if leaf.part.layer != "2")
    assert tree.differences(fewer) == ["layer 2: only one of the two has it"] == fewer.differences(tree)


def test_the_json_form_says_as_much_and_is_checked() -> None:
    found = leaves()
    tree = WeightTree.of(found, ["a note"])
    back = WeightTree.from_dict(tree.to_dict(), "here")
    assert back.root == tree.root and dict(back.parts) == dict(tree.parts) and back.notes == ("a note",)
    other = WeightTree.from_dict(changed(found, "l2.3.up", "l2.norm", "embed").to_dict(), "here")
    assert back.differences(other) == [
        "outside the layers: embedding, last norm or head",
        "layer 2: expert 3 and what every token passes",
    ]
    assert tree.to_dict(tensors=True)["tensors"]["embed"] == {
        "dtype": "F32", "shape": [4, 2], "sha256": "e" * 64
    }  # fmt: skip
    edited = tree.to_dict()
    edited["layers"]["1"]["experts"]["2"] = "sha256:" + "0" * 64
    with pytest.raises(CoterieError, match="here: its root is not that of its parts"):
        WeightTree.from_dict(edited, "here")
    for wrong in (
        {},
        [],
        None,
        {"schema": "other"},
        {"schema": tree.to_dict()["schema"], "layers": {"0": 1}},
    ):
        with pytest.raises(CoterieError, match="here: is not a tree of weights"):
            WeightTree.from_dict(wrong, "here")


def test_layers_come_in_the_order_of_their_numbers() -> None:
    parts = [TreePart("mtp 0"), TreePart("10"), TreePart("9", 11), TreePart("9", 2), TreePart(MODEL)]
    tree = WeightTree.of(
        TensorLeaf(f"t{number}", part, "F32", (), "0" * 64) for number, part in enumerate(parts)
    )
    assert list(tree.layers) == [MODEL, "9", "10", "mtp 0"]
    assert [part.expert for part in tree.layers["9"]] == [2, 11]


def test_a_tensor_that_comes_twice_is_refused() -> None:
    with pytest.raises(CoterieError, match="'embed' comes twice"):
        WeightTree.of([leaves()[0], leaves()[0]])
