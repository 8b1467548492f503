"""Expert patches: what they train, what they hold, and that they only go onto their own base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import attach
from coterie.adapters.patch import (
    apply_patches,
    attach_subset,
    attached_selection,
    read_patch,
    save_patch,
)
from coterie.checkpoints.directory import load_model, save_model
from coterie.cli.main import main
from coterie.config import AdapterConfig, CheckpointError, ConfigError, ExpertSelection
from coterie.config.run import OptimiserConfig
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.train import build_optimiser
from tests.adapters.test_attach import IDS, built, logits, trainable
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_model_close

SELECTIONS = {
    "qwen3_moe": {0: (1, 4), 3: (0,)},
    "gpt_oss": {1: (2,), 2: (0, 5)},
    "deepseek_v3": {1: (11, 3)},
    "llama4_scout": {0: (2,), 1: (3,)},
}


def selection(name: str, **more: bool) -> ExpertSelection:
    return ExpertSelection(experts=SELECTIONS[name], **more)


def disturb(model: Transformer, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


@pytest.mark.parametrize("name", sorted(SELECTIONS))
def test_attached_then_saved_then_applied_then_removed(name: str, tmp_path: Path) -> None:
    model, base = built(name), built(name)
    before = logits(base)
    attach_subset(model, selection(name))
    assert torch.equal(logits(model), before)
    assert trainable(model) == {n for n, _ in model.named_parameters() if "subset_" in n}
    disturb(model)
    tuned = logits(model)
    assert not torch.allclose(tuned, before)
    patch = save_patch(tmp_path / "patch", model, "base")
    assert patch.selection == attached_selection(model) == selection(name)
    (applied,) = apply_patches(base, [read_patch(tmp_path / "patch")])
    assert_model_close(base.config, logits(base), tuned, len(IDS))
    with pytest.raises(CheckpointError, match="not the base"):
        apply_in_place(base, tmp_path / "patch")
    applied.remove()
    assert torch.equal(logits(base), before)


def test_gradients_of_a_whole_model_are_those_of_full_training() -> None:
    whole, subset = built("qwen3_moe"), built("qwen3_moe")
    attach_subset(subset, selection("qwen3_moe"))
    for model in (whole, subset):
        model.logits(model(IDS, ForwardContext.packed([len(IDS)]))).square().mean().backward()
    for name, parameter in subset.named_parameters():
        if not name.endswith("subset_weight"):
            assert parameter.grad is None
            continue
        chosen = SELECTIONS["qwen3_moe"][int(name.split(".")[1])]
        expected = whole.get_parameter(name.replace("subset_weight", "weight")).grad
        assert parameter.grad is not None and expected is not None
        passes = FORWARD_AND_BACKWARD
        assert_model_close(whole.config, parameter.grad, expected[list(chosen)], len(IDS), passes=passes)


def test_the_optimiser_holds_state_for_the_chosen_alone() -> None:
    model = built("qwen3_moe")
    attach_subset(model, selection("qwen3_moe"))
    optimiser = build_optimiser(model, OptimiserConfig(expert_lr=2.0))
    model.logits(model(IDS, ForwardContext.packed([len(IDS)]))).square().mean().backward()
    optimiser.step(1e-3)
    sizes = sum(t.numel() for n, t in optimiser.state_tensors().items() if n.startswith("exp_avg."))
    assert sizes == sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * (2 * 24 + 24) * 32
    assert all(
        group["lr_factor"] == 2.0
        for part in optimiser.parts
        for group in part.param_groups
        if group["params"]
    )


def test_shared_and_other_modules_go_into_the_patch_where_the_selection_says_so(tmp_path: Path) -> None:
    model, base = built("deepseek_v3"), built("deepseek_v3")
    attach_subset(model, selection("deepseek_v3", shared_experts=True, non_expert_modules=True))
    disturb(model)
    tuned = logits(model)
    patch = save_patch(tmp_path / "patch", model, "base")
    assert patch.selection.shared_experts and patch.selection.non_expert_modules
    assert "embed.weight" in patch.tensors and "blocks.1.ffn.shared.gate.weight" in patch.tensors
    apply_in_place(base, tmp_path / "patch")
    assert_model_close(base.config, logits(base), tuned, len(IDS))


def test_training_goes_on_from_a_patch(tmp_path: Path) -> None:
    model, again = built("gpt_oss"), built("gpt_oss")
    attach_subset(model, selection("gpt_oss"))
    disturb(model)
    save_patch(tmp_path / "patch", model, "base")
    attach_subset(again, read_patch(tmp_path / "patch").selection)
    apply_in_place(again, tmp_path / "patch")
    assert torch.equal(logits(again), logits(model))
    assert len(trainable(again)) > 0


def test_a_model_in_lower_precision_is_still_the_base(tmp_path: Path) -> None:
    model, base = built("qwen3_moe"), built("qwen3_moe")
    attach_subset(model, selection("qwen3_moe"))
    save_patch(tmp_path / "patch", model, "base")
    apply_in_place(base.to(torch.bfloat16), tmp_path / "patch")
    with torch.no_grad():
        base.blocks[1].attention.q.weight[0, 0] += 0.1
    with pytest.raises(CheckpointError, match="not the base"):
        apply_in_place(base, tmp_path / "patch")


def test_two_patches_of_one_base_go_together_unless_they_overlap(tmp_path: Path) -> None:
    for number, experts in enumerate([{0: (1,)}, {0: (2,), 3: (0,)}, {0: (1, 5)}]):
        model = built("qwen3_moe")
        attach_subset(model, ExpertSelection(experts=experts))
        disturb(model, number)
        save_patch(tmp_path / str(number), model, "base")
    patches = [read_patch(tmp_path / str(number)) for number in range(3)]
    base = built("qwen3_moe")
    apply_patches(base, patches[:2])
    assert torch.equal(
        base.blocks[0].ffn.experts.down.weight[1], patches[0].tensors["blocks.0.ffn.experts.down.weight"][0]
    )
    assert torch.equal(
        base.blocks[0].ffn.experts.down.weight[2], patches[1].tensors["blocks.0.ffn.experts.down.weight"][0]
    )
    with pytest.raises(CheckpointError, match="of expert 1"):
        apply_patches(built("qwen3_moe"), [patches[0], patches[2]])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer 1 of this qwen3_moe model has no experts"):
        attach_subset(built("qwen3_moe"), ExpertSelection(experts={1: (0,)}))
    with pytest.raises(ConfigError, match="experts 0 to 7, not 8"):
        attach_subset(built("qwen3_moe"), ExpertSelection(experts={0: (8,)}))
    with pytest.raises(ConfigError, match="names an expert twice"):
        ExpertSelection.from_dict({"experts": {"0": [1, 1]}})
    with pytest.raises(ConfigError, match="selection is empty"):
        attach_subset(built("qwen3_moe"), ExpertSelection(experts={0: ()}))
    adapted = built("qwen3_moe")
    attach(adapted, AdapterConfig())
    with pytest.raises(ConfigError, match="adapter or a subset already"):
        attach_subset(adapted, selection("qwen3_moe"))
    model = built("qwen3_moe")
    attach_subset(model, selection("qwen3_moe"))
    with pytest.raises(CheckpointError, match="chosen experts are in training"):
        save_model(tmp_path / "model", model)
    save_patch(tmp_path / "patch", model, "base")
    damaged = bytearray((tmp_path / "patch" / "patch.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "patch" / "patch.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_patch(tmp_path / "patch")


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> dict:
        monkeypatch.setattr("sys.argv", ["coterie", "patch", *words, "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None)
        return json.loads(capsys.readouterr().out)

    base, patch, tuned = (str(tmp_path / name) for name in ("base", "patch", "tuned"))
    save_model(base, built("qwen3_moe"))
    model = load_model(base).model
    attach_subset(model, selection("qwen3_moe"))
    disturb(model)
    save_patch(patch, model, base)
    assert run("inspect", patch)["experts"] == {"0": [1, 4], "3": [0]}
    run("apply", base, patch, "-o", tuned)
    assert torch.equal(logits(load_model(tuned, check=False).model), logits(load_model(tuned).model))
    assert_model_close(model.config, logits(load_model(tuned).model), logits(model), len(IDS))
    assert run("diff", patch, patch)["total"] == 0.0
    moved = run("diff", patch, base)
    assert len(moved["distance"]) == 6 and moved["total"] > 0.3
    run("remove", tuned, patch, base, "-o", str(tmp_path / "again"))
    assert torch.equal(logits(load_model(tmp_path / "again").model), logits(load_model(base).model))
    monkeypatch.setattr(
        "sys.argv", ["coterie", "patch", "remove", base, patch, base, "-o", str(tmp_path / "no")]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1 and "does not hold the patch's values" in capsys.readouterr().err
