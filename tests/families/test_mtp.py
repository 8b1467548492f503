"""Multi-token prediction: transformers' own layer as the oracle, the loss against a slow reference, the way
back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import MtpModel

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CoterieError, Precision
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.plan.counts import count_parameters
from coterie.recipes.quantise_files import plan_files
from coterie.train.batch import collate
from tests.arithmetic import approx, assert_model_close, mean_sums
from tests.families.hf import VOCAB, randomise, tiny
from tests.train.support import make_row, make_trainer


def with_mtp(path: Path, layers: int = 2, name: str = "deepseek_v3") -> tuple[torch.nn.Module, MtpModel]:
    """A directory with layers past the last one, and the modules it was written from."""
    main = tiny(name, num_nextn_predict_layers=layers)
    main.save_pretrained(path)
    further = MtpModel(main, layers).eval()
    randomise(further.layers, seed=3)
    tensors = load_file(path / "model.safetensors")
    start = main.config.num_hidden_layers
    renamed = {"post_norm.weight": "shared_head.norm.weight"}
    for name, value in further.layers.state_dict().items():
        index, rest = name.split(".", 1)
        rest = renamed.get(rest, rest.removeprefix("mtp_block."))
        disk = f"model.layers.{start + int(index)}."
        if rest.endswith("experts.gate_up_proj"):
            for expert, weight in enumerate(value):
                gate, up = weight.chunk(2)
                tensors[f"{disk}mlp.experts.{expert}.gate_proj.weight"] = gate.contiguous()
                tensors[f"{disk}mlp.experts.{expert}.up_proj.weight"] = up.contiguous()
        elif rest.endswith("experts.down_proj"):
            tensors |= {
                f"{disk}mlp.experts.{e}.down_proj.weight": w.contiguous() for e, w in enumerate(value)
            }
        else:
            tensors[disk + rest] = value.contiguous()
    for depth in range(layers):
        tensors[f"model.layers.{start + depth}.embed_tokens.weight"] = tensors[
            "model.embed_tokens.weight"
        ].clone()
        tensors[f"model.layers.{start + depth}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return main, further


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe", "glm4_moe_air"])
def test_hidden_states_equal_those_of_transformers_layer(name: str, tmp_path: Path) -> None:
    main, further = with_mtp(tmp_path, name=name)
    model = load_model(tmp_path).model
    ids = torch.randint(0, VOCAB, (14,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        context = ForwardContext.packed([12])
        h = model(ids[:12], context)
        ours = list(model.predict_further(h, ids[1:13], context))
        hidden = main.model(ids[None, :12]).last_hidden_state
        positions = torch.arange(12)[None]
        mask = torch.full((12, 12), float("-inf")).triu(1)[None, None]
        for depth in range(2):
            embedded = main.get_input_embeddings()(ids[None, 1 + depth : 13 + depth])
            rotary = main.model.rotary_emb(embedded, positions)
            hidden = further.layers[depth](embedded, hidden, rotary, mask, positions, None)
            # The last token of the second depth reads a token that a training row does not hold.
            kept = slice(0, 12 - depth)
            assert hidden.std() > 0.3
            assert_model_close(model.config, ours[depth][kept], hidden[0, kept], tokens=12)


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_the_layers_travel_bit_for_bit_and_are_counted(name: str, tmp_path: Path) -> None:
    with_mtp(tmp_path / "a", layers=1, name=name)
    model = load_model(tmp_path / "a").model
    save_model(tmp_path / "b", model)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    counts = count_parameters(model.config)
    assert counts.mtp == sum(p.numel() for p in model.mtp.parameters())
    assert counts.total + counts.mtp == sum(p.numel() for p in model.parameters())


def test_a_config_may_name_layers_that_the_files_leave_out(tmp_path: Path) -> None:
    tiny("deepseek_v3", num_nextn_predict_layers=1).save_pretrained(tmp_path)
    assert load_model(tmp_path).model.config.num_mtp_layers == 0


def test_a_copy_of_the_embedding_that_differs_is_refused(tmp_path: Path) -> None:
    with_mtp(tmp_path, layers=1)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.4.embed_tokens.weight"][0] += 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CoterieError, match=r"'model\.layers\.4\.embed_tokens\.weight' differs from the tensor"
    ):
        load_model(tmp_path)


def test_a_copy_of_a_head_in_codes_is_compared_as_it_is_stored(tmp_path: Path) -> None:
    with_mtp(tmp_path, layers=1)
    held = Precision.parse("head=int8,block=8")
    model = load_model(tmp_path, precision=held).model
    assert model.head is not None and model.config.num_mtp_layers == 1
    with pytest.raises(CoterieError, match="layers for multi-token prediction repeat the head"):
        plan_files(Checkpoint.open(tmp_path), held)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.4.shared_head.head.weight"][0] += 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CoterieError, match=r"shared_head\.head\.weight' differs from the tensor"):
        load_model(tmp_path, precision=held)


def test_the_loss_is_that_of_a_slow_reference_and_reaches_the_layers(tmp_path: Path) -> None:
    with_mtp(tmp_path)
    trainers = [
        make_trainer(model=load_model(tmp_path).model, batch_rows=2, mtp_weight=w) for w in (0.0, 0.3)
    ]
    plain, extra = (trainer.step() for trainer in trainers)
    model, batch = load_model(tmp_path).model, collate([make_row(0), make_row(1)])
    expected, weight = 0.0, 0.0
    start = 0
    with torch.no_grad():
        for length in batch.context.lengths:  # each document alone, each position by its index
            ids, targets = batch.ids_T[start : start + length], batch.targets_T[start : start + length]
            weights = batch.weights_T[start : start + length]
            context = ForwardContext.packed([length])
            h = model(ids, context)
            weight += float(weights.sum())
            for depth, further in enumerate(model.predict_further(h, targets, context), 1):
                for position in range(length - depth):
                    one = further[position : position + 1]
                    target = targets[position + depth : position + depth + 1]
                    logp = token_logprobs(one, model.head_weight, target)
                    expected -= float(logp * weights[position + depth]) / 2
            start += length
    sums = mean_sums(model.config)
    assert extra["mtp_loss"] == approx(expected / weight, *sums)
    assert extra["loss"] == approx(plain["loss"] + 0.3 * expected / weight, *sums)
    assert "mtp_loss" not in plain


def test_every_parameter_of_the_layers_gets_a_gradient(tmp_path: Path) -> None:
    with_mtp(tmp_path, layers=1)
    model = load_model(tmp_path).model
    trainer = make_trainer(model=model, batch_rows=8, mtp_weight=0.3)
    before = {name: value.clone() for name, value in model.mtp.named_parameters()}
    trainer.step()
    for name, value in model.mtp.named_parameters():
        assert not torch.equal(before[name], value), name
