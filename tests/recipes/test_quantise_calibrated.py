"""Calibrated rounding as a whole: what is gathered, where codes come to lie, and what it wins."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.quantised.encoded import unpacked
from coterie.config import ConfigError, CoterieError, Precision
from coterie.families import config_from_hf
from coterie.nn.linear import Linear
from coterie.nn.packed import forward_packed
from coterie.nn.rounding import nearest_codes, searched_scales
from coterie.nn.transformer import Transformer
from coterie.recipes.quantise import quantise_checkpoint
from coterie.recipes.quantise_calibrated import _Watch, calibrate
from coterie.recipes.quantise_files import plan_files
from coterie.text.tokenizer import Tokenizer
from tests.cli.support import call
from tests.families.hf import _BASE, CONFIGS, randomise

TABLE = "int4,attention=int8,block=8"


def source(folder: Path, family: str, **changes: object) -> Path:
    """A model with a tokenizer, and `text.jsonl` beside it."""
    texts = ["a small fox sat on a warm stone and looked at the sea " * 3] * 8
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    tokenizer = Tokenizer.train(texts, vocab_size=300)
    shape = {"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2} | changes
    model = Transformer(config_from_hf(_BASE | CONFIGS[family] | shape))
    randomise(model, 0)
    save_model(folder / family, model, tokenizer, dtype="float32")
    return folder / family


@pytest.mark.parametrize("family", ["qwen3_moe", "phi3"])
def test_codes_lie_where_their_numbers_are(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = source(tmp_path, family), tmp_path / "out"
    text = str(tmp_path / "text.jsonl")
    call(
        "quantise", str(path), "-o", str(out), "--quant", TABLE, "--data", text, "--calibrate", text, "--json"
    )
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["calibration"]["data"] == [text] and receipt["calibration"]["tokens"] > 50
    assert receipt["calibration"]["matrices"] == receipt["rounding"]["matrices"]
    exact, made = (coterie.load(place, dtype="float32").model for place in (path, out))
    before, after = dict(exact.named_parameters()), dict(made.named_parameters())
    assert before.keys() == after.keys()
    for name, weight in before.items():
        change = (after[name] - weight).square().mean().sqrt() / weight.square().mean().sqrt()
        assert change < (0.25 if weight.dim() > 1 else 1e-6), name
    coterie.load(out, check=True, dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_matrix_of_every_family_is_reached(tmp_path: Path, family: str) -> None:
    model = Transformer(config_from_hf(_BASE | CONFIGS[family]))
    randomise(model, 0)
    save_model(tmp_path / "m", model)
    checkpoint, planned = Checkpoint.open(tmp_path / "m"), None
    for block in (8, 4, 2):
        with contextlib.suppress(ConfigError):
            planned = planned or plan_files(checkpoint, Precision.parse(f"int4,attention=int8,block={block}"))
    if planned is None:
        pytest.skip("its experts are one tensor on disk")
    length, vocabulary = min(40, model.config.max_positions), model.config.vocab_size
    text = [[(7 * i + first) % vocabulary for i in range(length)] for first in range(6)]
    loaded = checkpoint.load("float32").model
    made = calibrate(loaded, planned.targets, planned.slots, checkpoint.tensors, text, planned.rounding)
    held = {slot.disk: slot.name for slot in planned.slots if slot.name in planned.targets}
    assert made.parts.keys() >= {disk for disk, name in held.items() if name.startswith("blocks.")}
    for disk, (words, scales) in made.parts.items():
        weight, bits = checkpoint.tensors.read(disk).float(), planned.targets[held[disk]].bits
        codes = unpacked(words, bits, weight.shape[1]).float() - 2 ** (bits - 1)
        wide = (codes.unflatten(-1, (scales.shape[-1], -1)) * scales.float()[..., None]).flatten(-2)
        change = (wide - weight).square().mean().sqrt() / weight.square().mean().sqrt()
        assert change < (0.4 if bits == 4 else 0.05), disk


def test_the_answers_are_closer_to_the_originals(tmp_path: Path) -> None:
    path, text = source(tmp_path, "qwen3_moe"), (str(tmp_path / "text.jsonl"),)
    table = Precision.parse("int4,block=8")
    plain = quantise_checkpoint(path, tmp_path / "plain", table, text)
    better = quantise_checkpoint(path, tmp_path / "better", table, text, calibration=text)
    assert plain.calibration is None and plain.function is not None and better.function is not None
    assert plain.bytes == better.bytes
    exact = coterie.load(path, dtype="float32")
    assert exact.tokenizer is not None
    ids = exact.tokenizer.encode("a warm fox looked at a small stone and sat on the sea " * 4)
    wanted = exact.logits(ids)
    errors = [
        float((coterie.load(place, dtype="float32").logits(ids) - wanted).square().mean())
        for place in (tmp_path / "plain", tmp_path / "better")
    ]
    assert errors[1] < 0.7 * errors[0]


def test_what_is_gathered_is_what_each_matrix_reads(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(source(tmp_path, "qwen3_moe"))
    planned = plan_files(checkpoint, Precision.parse(TABLE))
    model, text = checkpoint.load("float32").model, [list(range(5, 45)), list(range(60, 80))]
    watch = _Watch(model, planned.targets)
    with torch.no_grad():
        for sequence in text:
            forward_packed(model, [sequence])
    found = dict(watch.taken())
    assert found.keys() == planned.targets.keys()
    assert all(moments[0].rows == 60 for name, moments in found.items() if ".experts." not in name)
    config = model.config.blocks[0].ffn
    for name, moments in found.items():
        if ".experts." in name:
            assert len(moments) == config.router.num_experts
            assert sum(own.rows for own in moments) == 60 * config.router.top_k
    # With the moments of its own inputs, the output's squared error is what they say it is.
    name = "blocks.1.attention.o.weight"
    layer, seen = model.get_submodule(name.removesuffix(".weight")), []
    assert isinstance(layer, Linear)
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    watch.end()
    with torch.no_grad():
        for sequence in text:
            forward_packed(model, [sequence])
    hook.remove()
    x_TI = torch.cat(seen)
    torch.testing.assert_close(found[name][0].sum_II, x_TI.T @ x_TI, rtol=1e-4, atol=1e-4)
    assert not watch.taken()


def test_experts_that_no_token_reaches_are_rounded_alone(tmp_path: Path) -> None:
    path = source(tmp_path, "qwen3_moe", num_experts=64, num_experts_per_tok=1)
    table, text = Precision.parse("experts=int4,block=8"), (str(tmp_path / "text.jsonl"),)
    receipt = quantise_checkpoint(path, tmp_path / "out", table, outputs=False, calibration=text)
    assert receipt.calibration is not None and 0 < receipt.calibration["unseen"] < 2 * 2 * 64
    made = Checkpoint.open(tmp_path / "out").load("float32").model
    exact = Checkpoint.open(path).load("float32").model.blocks[0].moe
    assert exact is not None and made.blocks[0].moe is not None
    weights, found = (moe.experts.down.weight for moe in (exact, made.blocks[0].moe))
    scales = searched_scales(weights, 4, 8)
    alone = nearest_codes(weights, scales, 4).unflatten(-1, (-1, 8)) * scales.float()[..., None]
    same = (alone.flatten(-2) == found).flatten(1).all(1)
    assert 0 < int(same.sum()) < 64


def test_without_text_nothing_is_written(tmp_path: Path) -> None:
    path = source(tmp_path, "phi3")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(CoterieError, match=r"empty\.jsonl"):
        quantise_checkpoint(
            path, tmp_path / "out", Precision.parse(TABLE), calibration=(str(tmp_path / "empty.jsonl"),)
        )
    assert not (tmp_path / "out").exists()
