"""Layouts round-trip exactly, even where shapes cannot tell them apart; inspect, diff and the verbs."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import Adapter, attach, drop_adapter, put_adapter, take_adapter
from coterie.adapters.files import CONFIG, save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.adapters.peft_layouts import LAYOUTS, Layout
from coterie.adapters.tools import convert_adapter, deltas, diff_adapters, inspect_adapter, resolve_adapter
from coterie.checkpoints.directory import load_model
from coterie.cli.main import app
from coterie.config import CheckpointError, ConfigError
from coterie.proof.judge import check_probes
from tests.adapters.test_attach import IDS, MERGED, config, logits, randomise_factors
from tests.adapters.test_peft import loaded_by_peft, their_logits
from tests.arithmetic import approx, assert_close, assert_model_close, largest, tolerance
from tests.families.hf import tiny

# hidden 32: an expert width of 16 makes gate_up square (H == 2I), of 32 down; rank may equal the number of
# experts.
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "H is 2I": ("qwen3_moe", {"moe_intermediate_size": 16}, {"rank": 3}),
    "llama4, H is 2I, E is r": ("llama4_scout", {"intermediate_size": 16}, {"rank": 4}),
    "llama4, r is 1": ("llama4_maverick", {"intermediate_size": 16}, {"rank": 1}),
    "gpt_oss, square down, E is r": ("gpt_oss", {"intermediate_size": 32}, {"rank": 6}),
    "mixtral, E is r": ("mixtral", {"intermediate_size": 16}, {"rank": 5}),
    "deepseek, r is 1": ("deepseek_v3", {"moe_intermediate_size": 16}, {"rank": 1}),
}


def made(
    tmp_path: Path, name: str, changes: dict[str, Any], how: dict[str, Any], layout: Layout = "peft"
) -> Path:
    base = tmp_path / "base"
    if not base.exists():
        tiny(name, **changes).save_pretrained(base)
    model = load_model(base).model
    attach(model, config(**how))
    randomise_factors(model)
    save_adapter(tmp_path / layout, model, base, layout=layout)
    return tmp_path / layout


def changes_of(path: Path) -> dict[str, torch.Tensor]:
    opened = resolve_adapter(path)
    return {n: torch.stack(list(deltas(f, opened.base.config, n))) for n, f in opened.adapter.factors.items()}


# Every pair for two shapes; for the others each layout once from the one before it in the list.
@pytest.mark.parametrize("shape", SHAPES)
def test_every_pair_of_layouts_round_trips(shape: str, tmp_path: Path) -> None:
    how = SHAPES[shape][2]
    every = shape in ("H is 2I", "gpt_oss, square down, E is r")
    pairs = itertools.permutations(LAYOUTS, 2) if every else itertools.pairwise((*LAYOUTS, LAYOUTS[0]))
    made(tmp_path, *SHAPES[shape])
    original = changes_of(tmp_path / "peft")
    for layout in LAYOUTS[1:]:
        convert_adapter(tmp_path / "peft", layout, tmp_path / layout)
    model = load_model(tmp_path / "base").model
    apply_in_place(model, tmp_path / "peft", tmp_path / "base")
    expected = logits(model)
    for first, second in pairs:
        convert_adapter(tmp_path / first, second, tmp_path / f"{first}-{second}")
        found = changes_of(tmp_path / f"{first}-{second}")
        assert found.keys() == original.keys()
        for name, change in original.items():
            assert_close(found[name], change, terms=how["rank"], name=name)
        assert diff_adapters(tmp_path / "peft", tmp_path / f"{first}-{second}").same
        last = f"{first}-{second}"
    other = load_model(tmp_path / "base").model
    apply_in_place(other, tmp_path / last, tmp_path / "base")
    assert_model_close(model.config, logits(other), expected, len(IDS))
    check_probes(tmp_path / last, other)


@pytest.mark.parametrize("shape", ["H is 2I", "llama4, H is 2I, E is r"])
def test_where_shapes_cannot_tell_the_probes_do(shape: str, tmp_path: Path) -> None:
    """Only the square gate_up is adapted: every layout loads without complaint, and one of two means another
    model.
    """
    name, changes, how = SHAPES[shape]
    tiny(name, **changes).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base").model
    attach(model, config(**how | {"train": dict.fromkeys(("attention", "shared", "dense"), "freeze")}))
    randomise_factors(model)
    factors = {n: f for n, f in take_adapter(model).factors.items() if n.endswith("gate_up")}
    drop_adapter(model)
    before = logits(model)
    put_adapter(model, Adapter(factors), config(**how))
    expected = logits(model)
    layouts: tuple[Layout, Layout] = ("peft", "peft018" if name == "qwen3_moe" else "vllm3d")
    for layout in layouts:
        path = tmp_path / layout
        save_adapter(path, model, tmp_path / "base", layout=layout)
        (path / "coterie.json").unlink()
        (path / CONFIG).write_text(
            json.dumps(json.loads((path / CONFIG).read_text()) | {"peft_version": None})
        )
        assert resolve_adapter(path).known_by == "probes"
    assert diff_adapters(tmp_path / layouts[0], tmp_path / layouts[1]).same
    for layout, other in (layouts, layouts[::-1]):
        shutil.rmtree(tmp_path / layout / "probes")
        with pytest.raises(CheckpointError, match="--assume-layout"):
            resolve_adapter(tmp_path / layout)
        found = {}
        for assumed in (layout, other):
            again = load_model(tmp_path / "base").model
            apply_in_place(again, tmp_path / layout, tmp_path / "base", layout=assumed)
            found[assumed] = logits(again)
        assert_model_close(model.config, found[layout], expected, len(IDS))
        assert float((found[other] - expected).abs().max()) > 0.1 * float((expected - before).abs().max())


def test_a_stamp_cannot_be_overruled(tmp_path: Path) -> None:
    made(tmp_path, *SHAPES["H is 2I"])
    with pytest.raises(CheckpointError, match="its stamp says layout 'peft', not 'peft018'"):
        resolve_adapter(tmp_path / "peft", layout="peft018")


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_peft_turns_single_experts_into_the_same_model(name: str, tmp_path: Path) -> None:
    made(tmp_path, name, {}, {"train": {"dense": "freeze"}})
    convert_adapter(tmp_path / "peft", "per-expert", tmp_path / "single")
    model = load_model(tmp_path / "base").model
    apply_in_place(model, tmp_path / "single", tmp_path / "base")
    theirs = their_logits(loaded_by_peft(tmp_path / "base", tmp_path / "single"))
    assert_model_close(model.config, logits(model), theirs, len(IDS))


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_a_merged_model_is_taken_apart_again(name: str, tmp_path: Path) -> None:
    made(tmp_path, name, {}, {"rank": 3, "train": {"router": "lora", "norm": "full"}})
    merge_checkpoint(tmp_path / "base", tmp_path / "peft", tmp_path / "merged")
    convert_adapter(tmp_path / "merged", "peft", tmp_path / "back", base=tmp_path / "base")
    original, found = changes_of(tmp_path / "peft"), changes_of(tmp_path / "back")
    assert found.keys() == original.keys()
    whole = load_model(tmp_path / "merged").model
    for layer, change in original.items():
        # The factors come from a difference of weights, each rounded at its own size.
        size = largest(whole.get_parameter(f"{layer}.weight"))
        assert_close(found[layer], change, terms=3, dtype=torch.float32, size=size, name=layer)
    opened = resolve_adapter(tmp_path / "back")
    assert {factors.rank for factors in opened.adapter.factors.values()} == {3}
    assert all(".norm" in n or "_norm" in n or n == "norm.weight" for n in opened.adapter.full)
    model = load_model(tmp_path / "base").model
    apply_in_place(model, tmp_path / "back", tmp_path / "base")
    assert_model_close(model.config, logits(model), logits(whole), len(IDS), passes=MERGED)
    with pytest.raises(CheckpointError, match="differs from the base by rank 3; allow more with --max-rank"):
        convert_adapter(tmp_path / "merged", "peft", tmp_path / "less", base=tmp_path / "base", max_rank=2)
    with pytest.raises(CheckpointError, match="there is no adapter to extract"):
        convert_adapter(tmp_path / "base", "peft", tmp_path / "none", base=tmp_path / "base")


def test_inspect_and_diff(tmp_path: Path) -> None:
    made(tmp_path, "qwen3_moe", {}, {"rank": 6, "rank_rule": "active", "alpha": 9, "dora": True})
    facts = inspect_adapter(tmp_path / "peft")
    rows = {row.group: row for row in facts.groups}
    assert rows["experts"].ranks == [2] and rows["attention"].ranks == [6]
    assert rows["experts"].scales == [4.5] and rows["experts"].layers == 6
    assert rows["attention"].parameters == 4 * (
        2 * (6 * (32 + 64) + 64 * 0) + 2 * 6 * (32 + 32) + 64 + 32 + 32 + 32
    )
    change = changes_of(tmp_path / "peft")
    length = sum(float(c.square().sum()) for n, c in change.items() if ".experts." in n) ** 0.5
    assert rows["experts"].change == approx(length, terms=max(c.numel() for c in change.values()))
    assert facts.dora and facts.peft_cannot and facts.base_checked and facts.probes
    model = load_model(tmp_path / "base").model
    apply_in_place(model, tmp_path / "peft", tmp_path / "base")
    with torch.no_grad():
        model.blocks[2].ffn.experts.down.lora_B.mul_(1.01)
    save_adapter(tmp_path / "other", model, tmp_path / "base")
    result = diff_adapters(tmp_path / "peft", tmp_path / "other")
    assert not result.same and result.worst == pytest.approx(0.01 / 1.01, rel=1e-4)
    assert [row.name for row in result.layers if row.difference > 1e-6] == ["blocks.2.ffn.experts.down"]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_verbs(tmp_path: Path) -> None:
    made(tmp_path, "mixtral", {}, {})
    base, adapter = tmp_path / "base", tmp_path / "peft"
    shown = run("adapter", "inspect", adapter)
    assert (
        shown.exit_code == 0
        and "layout      peft (known by stamp)" in shown.stdout
        and "experts" in shown.stdout
    )
    assert json.loads(run("adapter", "inspect", adapter, "--json").stdout)["family"] == "mixtral"
    assert "8 layers" not in run("adapter", "convert", adapter, "--to", "vllm3d", "-o", tmp_path / "v").stdout
    assert run("adapter", "diff", adapter, tmp_path / "v").stdout.startswith("same: 0 of 24 layers differ")
    done = run("merge", base, adapter, "-o", tmp_path / "out")
    assert done.exit_code == 0 and "base gravity 1.000" in done.stdout, done.output
    facts = json.loads(run("adapter", "merge", base, adapter, "-o", tmp_path / "out2", "--json").stdout)
    assert facts["gravity"] > 0.999
    assert run("adapter", "convert", adapter, "--to", "merged", "-o", tmp_path / "out3").exit_code == 0
    assert torch.equal(
        load_model(tmp_path / "out3").model(IDS, layout()), load_model(tmp_path / "out").model(IDS, layout())
    )
    back = run(
        "adapter", "convert", tmp_path / "out", "--to", "peft", "--base", base, "-o", tmp_path / "back"
    )
    assert back.stdout.startswith("merged -> peft"), back.output
    other = run("adapter", "diff", adapter, tmp_path / "back", "--json")
    whole = load_model(tmp_path / "out").model
    allowed = max(
        tolerance(float(whole.get_parameter(f"{name}.weight").norm()), terms=3) / float(change.norm())
        for name, change in changes_of(adapter).items()
    )
    assert json.loads(other.stdout)["worst"] <= allowed
    wrong = run("adapter", "convert", adapter, "--to", "peft18", "-o", tmp_path / "w")
    assert isinstance(wrong.exception, ConfigError) and "did you mean 'peft018'" in str(wrong.exception)


def layout() -> Any:
    from coterie.nn.forward_context import ForwardContext as Rows

    return Rows.packed([len(IDS)])
