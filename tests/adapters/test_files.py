"""What an adapter's directory says of itself, and what is refused: wrong bases, damage, unknown layouts,
settings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import coterie
from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import adapted_layers, attach
from coterie.adapters.files import CONFIG, WEIGHTS, read_adapter, save_adapter
from coterie.adapters.peft_layouts import LAYOUTS, Layout, is_swapped
from coterie.checkpoints import commit
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError, ConfigError, ExpertSelection
from coterie.nn.transformer import Transformer
from coterie.proof.judge import check_probes
from tests.adapters.test_attach import IDS, built, config, logits, randomise_factors
from tests.arithmetic import assert_close, assert_model_close, model_sums


def base_and_adapter(
    tmp_path: Path, name: str = "qwen3_moe", layout: Layout = "peft", **how: Any
) -> tuple[Path, Path]:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = built(name)
    save_model(base, model)
    attach(model, config(**how))
    randomise_factors(model)
    save_adapter(adapter, model, base, layout=layout)
    return base, adapter


def strip(adapter: Path, *names: str, **changes: Any) -> None:
    """Take the stamp (and more) away, and change adapter_config.json."""
    for name in ("coterie.json", *names):
        path = adapter / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    data = json.loads((adapter / CONFIG).read_text()) | changes
    (adapter / CONFIG).write_text(json.dumps(data))


def adapted(base: Path, adapter: Path, **how: Any) -> torch.Tensor:
    model = load_model(base).model
    apply_in_place(model, adapter, base, **how)
    return logits(model)


def test_the_stamp(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(
        tmp_path, "gpt_oss", rank=8, rank_rule="active", dropout=0.1, layout="peft018"
    )
    stamp = read_adapter(adapter).stamp
    assert stamp["layout"] == "peft018" and stamp["rank_rule"] == "active" and stamp["family"] == "gpt_oss"
    assert stamp["gate_up"] == "rows alternate, gate first" and stamp["version"].startswith("coterie")
    assert stamp["base"]["path"] == str(base) and len(stamp["base"]["tensors"]) == 4 * (4 + 2)
    assert stamp["config"]["dropout"] == 0.1
    data = json.loads((adapter / CONFIG).read_text())
    assert (
        data["r"] == 8
        and data["lora_dropout"] == 0.0
        and data["rank_pattern"]
        == {
            "mlp.experts.gate_up_proj": 2,
            "mlp.experts.down_proj": 2,
        }
    )
    assert data["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert data["target_parameters"] == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]


def test_load_with_an_adapter_and_by_the_adapter_alone(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path)
    expected = adapted(base, adapter)
    for model in (coterie.load(base, adapter=adapter, check=False), coterie.load(adapter)):
        assert_model_close(model.config, model.logits(IDS), expected, len(IDS))
    check_probes(adapter, coterie.load(adapter).model)
    with pytest.raises(CheckpointError, match="is not the model its probes were recorded from"):
        check_probes(adapter, coterie.load(base).model)
    strip(adapter, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="does not name its base"):
        coterie.load(adapter)


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path)
    other = built("qwen3_moe")
    with torch.no_grad():
        other.blocks[2].ffn.experts.down.weight[3, 1, 1] += 1e-3
    save_model(tmp_path / "other", other)
    with pytest.raises(
        CheckpointError, match=r"made for other weights than .*'blocks.2.ffn.experts.down.weight' differs"
    ):
        adapted(tmp_path / "other", adapter)
    (base / "coterie.json").unlink()  # the tensors themselves decide, not the directory's name or manifest
    moved = shutil.move(base, tmp_path / "moved")
    adapted(Path(moved), adapter)


def test_selected_experts_come_back_as_they_were(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = built("qwen3_moe")
    save_model(base, model)
    attach(model, config(), experts=ExpertSelection(experts={0: (6, 1), 2: (4,)}))
    randomise_factors(model)
    save_adapter(adapter, model, base)
    again = load_model(base).model
    apply_in_place(again, adapter, base)
    assert torch.equal(logits(again), logits(model))
    shapes = [{n: layer.lora_A.shape for n, layer in adapted_layers(m)} for m in (model, again)]
    assert shapes[0] == shapes[1] and shapes[0]["blocks.0.ffn.experts.down"][0] == 2


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_scout"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_back_equal_and_wrong_ones_are_noticed(
    layout: Layout, family: str, tmp_path: Path
) -> None:
    base, adapter = base_and_adapter(tmp_path, family, layout)
    expected = adapted(base, adapter)
    strip(adapter, peft_version=None)
    assert layout == "per-expert" or read_adapter(adapter).layout() is None
    sums = model_sums(load_model(base).model.config, len(IDS))
    assert_close(adapted(base, adapter), expected, *sums)  # by its probes
    strip_probes(adapter)
    assert_close(adapted(base, adapter, layout=layout), expected, *sums)
    if layout == "per-expert":
        return
    with pytest.raises(
        CheckpointError, match=r"neither a stamp, PEFT's version nor probes .* give --assume-layout"
    ):
        adapted(base, adapter)
    model_family = load_model(base).model.config.family
    for other in LAYOUTS[:4]:
        if is_swapped(model_family, other) != is_swapped(model_family, layout):
            with pytest.raises(ConfigError, match="are for a weight"):
                adapted(base, adapter, layout=other)


def strip_probes(adapter: Path) -> None:
    shutil.rmtree(adapter / "probes")


@pytest.mark.parametrize(
    ("version", "layout"),
    [
        ("0.17.0", "peft018"),
        ("0.18.1", "peft018"),
        ("0.19.0", "peft019"),
        ("0.19.1", "peft"),
        ("0.22.0.dev0", "peft"),
    ],
)
def test_pefts_version_is_a_stamp(version: str, layout: Layout, tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path, layout=layout)
    expected = adapted(base, adapter)
    strip(adapter, "probes", peft_version=version)
    assert_close(adapted(base, adapter), expected, *model_sums(load_model(base).model.config, len(IDS)))
    strip_version = json.loads((adapter / CONFIG).read_text()) | {"peft_version": "0.16.0"}
    (adapter / CONFIG).write_text(json.dumps(strip_version))
    with pytest.raises(CheckpointError, match="--assume-layout"):
        adapted(base, adapter)


def changed(adapter: Path, change: Any) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter; only LORA can be read"),
        ({"init_lora_weights": "pissa"}, "uses 'init_lora_weights=pissa'"),
        ({"bias": "all"}, "uses 'bias=all'"),
        ({"layer_replication": [[0, 2]]}, "uses 'layer_replication'"),
        ({"r": 3}, "8 experts of rank 3 have 24"),
        ({"rank_pattern": {"(": 3}}, "a pattern that is not a regular expression"),
        ({"lora_alpha": None}, "and alpha None"),
    ],
)
def test_settings_that_cannot_be_followed_are_errors(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base, adapter = base_and_adapter(tmp_path)
    strip(adapter, **settings)
    with pytest.raises(CheckpointError) as error:
        adapted(base, adapter)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_tensor_must_have_a_place(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path)
    strip(adapter)
    kept = (adapter / WEIGHTS).read_bytes()
    for key, message in (
        (
            "base_model.model.model.layers.0.self_attn.z_proj.lora_A.weight",
            "'model.layers.0.self_attn.z_proj' is not a layer",
        ),
        ("base_model.model.score.weight", "tensor 'score.weight' belongs to no layer"),
        (
            "base_model.model.model.layers.9.mlp.experts.lora_A.weight",
            "is not a layer of this qwen3_moe model",
        ),
    ):
        changed(adapter, lambda tensors, key=key: tensors.update({key: torch.zeros(4, 32)}))
        with pytest.raises(CheckpointError, match=message):
            adapted(base, adapter)
        (adapter / WEIGHTS).write_bytes(kept)
    missing = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    changed(adapter, lambda tensors: tensors.pop(missing))
    with pytest.raises(CheckpointError, match=r"has factors \(4, 32\) and None"):
        adapted(base, adapter)


def test_damage_and_other_directories(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has no adapter_config.json; give the directory of a LoRA adapter"
    ):
        read_adapter(base)
    with pytest.raises(CheckpointError, match="exists and is not an adapter"):
        model = built("qwen3_moe")
        attach(model, config())
        save_adapter(base, model, None)
    with pytest.raises(CheckpointError, match="has no adapter to save"):
        save_adapter(tmp_path / "x", built("qwen3"), None)
    raw = bytearray((adapter / WEIGHTS).read_bytes())
    raw[-5] ^= 1
    (adapter / WEIGHTS).write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match=r"SHA-256|hash|damaged|differs"):
        read_adapter(adapter)
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"its .bin is a pickle"):
        read_adapter(adapter)


def test_two_adapters_do_not_stack_silently(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path)
    model: Transformer = load_model(base).model
    apply_in_place(model, adapter, base)
    with pytest.raises(ConfigError, match="has one already"):
        apply_in_place(model, adapter, base)


def test_a_base_whose_bytes_changed_under_its_manifest_is_refused(tmp_path: Path) -> None:
    """The manifest lists the hashes of all files, so it was believed; the signs of a tensor had changed."""
    save_model(tmp_path / "base", built("qwen3_moe"))
    listed = tmp_path / "base" / "coterie.json"
    manifest = json.loads(listed.read_text())
    del manifest["sampled"]  # as an earlier version wrote it: loading sees sizes only
    listed.write_text(json.dumps(manifest | {"sha256": commit._own_hash(manifest)}))
    model = load_model(tmp_path / "base").model
    attach(model, config())
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    apply_in_place(load_model(tmp_path / "base").model, tmp_path / "adapter", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80  # the sign of the last number
    file.write_bytes(content)
    other = load_model(tmp_path / "base").model
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        apply_in_place(other, tmp_path / "adapter", tmp_path / "base")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        save_adapter(tmp_path / "again", model, tmp_path / "base")


@pytest.mark.parametrize("name", ["phi3", "qwen3_next"])
def test_factors_of_parts_of_one_tensor_are_all_kept(tmp_path: Path, name: str) -> None:
    """Queries, keys and values (and more) are one tensor on disk, and one pair of factors in PEFT."""
    model = built(name)
    save_model(tmp_path / "base", model)
    attach(model, config())
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    found = adapted(tmp_path / "base", tmp_path / "adapter", check=True)
    assert_model_close(model.config, found, logits(model), len(IDS))
