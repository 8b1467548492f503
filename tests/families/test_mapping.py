"""Slots: fused tensors on disk, and processes that hold blocks; load then save gives the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.fill import fill_model
from coterie.config import AttentionConfig, CheckpointError, ModelConfig
from coterie.families import FAMILIES, config_from_hf, family
from coterie.families.mapping import Held, Slot, Within, expert, expert_half, rows_within, transposed, whole
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer
from tests.families.hf import randomise
from tests.nn.test_transformer import SMALL

QWEN = FAMILIES["qwen3_moe"]


def fused_slots(config: ModelConfig) -> list[Slot]:
    """Qwen3-MoE with rows of q, k and v as one tensor in layer 0, and k and v side by side in the others."""
    attention = config.blocks[0].attention
    assert isinstance(attention, AttentionConfig)
    queries, keys = (n * attention.head_dim for n in (attention.num_heads, attention.num_kv_heads))
    rows = {"q": (0, queries), "k": (queries, queries + keys), "v": (queries + keys, queries + 2 * keys)}
    result = []
    for slot in QWEN.slots(config):
        part = next((part for part in "qkv" if slot.disk.endswith(f".{part}_proj.weight")), "")
        if part and slot.disk.startswith("model.layers.0."):
            within = rows_within((queries + 2 * keys, config.width), *rows[part])
            slot = Slot(slot.disk.replace(f"{part}_proj", "qkv_fused"), slot.name, within=within)
        elif part and part != "q":
            columns = slice(config.width * "kv".index(part), config.width * ("kv".index(part) + 1))
            # Not one range of bytes on disk.
            within = Within((keys, 2 * config.width), lambda stored, columns=columns: stored[:, columns])
            slot = Slot(slot.disk.replace(f"{part}_proj", "kv_fused"), slot.name, within=within)
        result.append(slot)
    return result


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = dataclasses.replace(QWEN, slots=fused_slots)
    monkeypatch.setitem(FAMILIES, "qwen3_moe", toy)


def make() -> Transformer:
    model = Transformer(config_from_hf(SMALL))
    randomise(model, 0)
    return model


def content(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_tensor_on_disk_fills_several_parameters_and_is_written_again(tmp_path: Path, dtype: str) -> None:
    model = make()
    save_model(tmp_path / "a", model, dtype=dtype)
    names = content(tmp_path / "a").keys()
    assert {"model.layers.0.self_attn.qkv_fused.weight", "model.layers.1.self_attn.kv_fused.weight"} <= names
    assert not any("k_proj" in name for name in names)
    for held in ("float32", dtype):
        loaded = Checkpoint.open(tmp_path / "a").load(held).model
        for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(ours.to(getattr(torch, dtype)), theirs.to(getattr(torch, dtype)))
        save_model(tmp_path / "b", loaded, dtype=dtype)
        one, two = (tmp_path / side / "model.safetensors" for side in "ab")
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.usefixtures("fused")
def test_a_fused_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_model(tmp_path / "a", make())
    (tmp_path / "a" / "coterie.json").unlink()
    tensors = content(tmp_path / "a")
    name = "model.layers.0.self_attn.qkv_fused.weight"
    save_file(tensors | {name: tensors[name][1:].contiguous()}, tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.self_attn\.qkv_fused\.weight' has shape"):
        Checkpoint.open(tmp_path / "a").load()


def test_parts_that_leave_a_hole_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def holed(config: ModelConfig) -> list[Slot]:
        first, *others = QWEN.slots(config)
        return [dataclasses.replace(first, within=rows_within((99, config.width), 0, 40)), *others]

    monkeypatch.setitem(FAMILIES, "qwen3_moe", dataclasses.replace(QWEN, slots=holed))
    with pytest.raises(CheckpointError, match=r"does not fill 'model\.embed_tokens\.weight' exactly once"):
        save_model(tmp_path / "a", make())


def blocks(model: Transformer, process: int) -> dict[str, Held]:
    """What each of two processes holds: half the experts, half the rows of every head and projection."""
    held = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            half = parameter.shape[0] // 2
            rows = slice(process * half, parameter.shape[0] if process else half)
            held[name] = Held(tuple(parameter.shape), (rows,))
    return held


def partial(held: dict[str, Held]) -> Transformer:
    """A model whose parameters are the held blocks alone."""
    with torch.device("meta"):
        model = Transformer(config_from_hf(SMALL))
    for name, part in held.items():
        module, _, leaf = name.rpartition(".")
        shape = torch.empty(part.shape, device="meta")[part.block].shape
        setattr(model.get_submodule(module), leaf, torch.nn.Parameter(torch.empty(shape, device="meta")))
    materialise(model, torch.float32, "cpu")
    return model


@pytest.mark.parametrize("fuse", [False, True])
def test_two_processes_read_their_blocks_and_together_write_the_same_bytes(
    tmp_path: Path, fuse: bool, request: pytest.FixtureRequest
) -> None:
    if fuse:
        request.getfixturevalue("fused")
    original = make()
    save_model(tmp_path / "a", original)
    before = content(tmp_path / "a")
    after = {name: torch.full_like(tensor, torch.nan) for name, tensor in before.items()}
    own = dict(original.named_parameters())
    for process in range(2):
        held = blocks(original, process)
        model = partial(held)
        fill_model(Checkpoint.open(tmp_path / "a").tensors, model, tmp_path / "a", held)
        local = dict(model.named_parameters())
        for name, part in held.items():
            assert torch.equal(local[name], own[name][part.block]), name
        for slot in family("qwen3_moe").slots(original.config):
            part = held.get(slot.name, Held(tuple(own[slot.name].shape), ()))
            found = slot.block(local[slot.name].data, part)
            if found is not None:
                slot.part(after[slot.disk])[found[1]].copy_(found[0])
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("shape", "block", "view"),
    [
        ((6, 4), (slice(2, 5),), whole),
        ((6, 4), (slice(0, 6), slice(1, 3)), whole),
        ((4, 6, 5), (slice(1, 3),), transposed),
        ((4, 6, 5), (slice(0, 4), slice(2, 5)), transposed),
        ((4, 6, 5), (slice(1, 3),), expert(2)),
        ((4, 6, 5), (slice(0, 4), slice(2, 5)), expert_half(1, 1)),
        ((4, 6, 5), (slice(0, 4), slice(2, 5)), expert_half(1, 0)),
        ((4, 1, 5), (slice(1, 3),), transposed),
        ((1, 1), (), whole),
    ],
)
def test_a_block_is_what_view_and_block_have_in_common(shape, block, view) -> None:  # type: ignore[no-untyped-def]
    full = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    disk = view(full).contiguous()
    local = full[block].clone() if block else full.clone()
    found = Slot("d", "n", view).block(local, Held(shape, block))
    assert found is not None
    target, index = found
    assert torch.equal(target, disk[index]) and target.numel() > 0
    target.fill_(-1)  # a view of the local block, not a copy
    outside = torch.full(shape, True)
    outside[block] = False
    assert int((local == -1).sum()) == disk[index].numel() == int((view(~outside)).sum())


def test_a_block_without_anything_in_common_is_none_and_a_reshaping_view_is_an_error() -> None:
    local = torch.zeros(2, 6, 5)
    held = Held((4, 6, 5), (slice(0, 2),))
    assert Slot("d", "n", expert(3)).block(local, held) is None
    rows = Held((4, 6, 5), (slice(0, 4), slice(0, 3)))
    assert Slot("d", "n", expert_half(1, 1)).block(torch.zeros(4, 3, 5), rows) is None
    with pytest.raises(ValueError, match="is not a block"):
        Slot("d", "n", lambda w: w.flatten()).block(local, held)
