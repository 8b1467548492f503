"""A model written to GGUF and read again is the same model: tensors and answers, for every architecture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.checkpoints.gguf_model.conftest import Exported
from tests.gguf.models import KINDS
from tests.gguf.rewritten import rewrite


def logits(model: Transformer, length: int = 40) -> torch.Tensor:
    ids_T = torch.randint(0, 300, (length,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.logits(model(ids_T, ForwardContext.packed([length])))


def rounds(kind: str, name: str) -> bool:
    """Whether a file holds a parameter plus 1 or as an exponential."""
    return name.endswith("A_log") or ("norm" in name and kind.startswith(("gemma", "qwen3_5", "qwen3_next")))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind: str, exported: Exported) -> None:
    directory, file = exported(kind)
    wanted, found = Checkpoint.open(directory).load(), Checkpoint.open(file).load()
    if kind != "deepseek_v3_half":  # there the file has rows of rope in another order, and so has the model
        parameters = dict(found.model.named_parameters())
        for name, parameter in wanted.model.named_parameters():
            # Norms are in some files plus 1 and logarithms as exponentials, which rounds.
            rounded = rounds(kind, name)
            torch.testing.assert_close(
                parameters[name], parameter, rtol=0, atol=2**-22 if rounded else 0, msg=name
            )
    assert_model_close(wanted.model.config, logits(found.model), logits(wanted.model), 40)


@pytest.mark.parametrize(
    "kind",
    "llama_tied_bias qwen3_moe deepseek_v3 gpt_oss llama4_scout phi3_long glm4 granitemoeshared mistral4 "
    "hunyuan_v1_moe glm_moe_dsa".split(),
)
def test_tensors_one_by_one_and_in_parts(kind: str, exported: Exported) -> None:
    """Under the names and shapes of the directory, whole, in part, and into memory of another type."""
    directory, file = exported(kind)
    stored, found = Checkpoint.open(directory).tensors, Checkpoint.open(file).tensors
    names = [name for name in stored if not name.startswith("model.layers.4.")]  # further tokens' layers
    assert set(found) == set(names) - {"lm_head.weight"} | ({"lm_head.weight"} & set(found))
    for name in found:
        wanted = stored.read(name)
        assert found.shape(name) == tuple(wanted.shape) and found.dtype(name) == torch.float32
        assert torch.equal(found.read(name), wanted), name
        assert torch.equal(found.read_part(name, 1), wanted[1]), name
        target = torch.empty(wanted.T.shape if wanted.dim() == 2 else wanted.shape, dtype=torch.float64)
        target = target.T if wanted.dim() == 2 else target
        found.read_into(name, target)
        assert torch.equal(target, wanted.double()), name
        found.read_into(name, target[:1], lambda tensor: tensor[1:2])
        assert torch.equal(target[0], wanted[1].double()), name
    found.release()
    assert torch.equal(found.read(name), wanted)


def _without(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


def _cut(name: str) -> Any:
    return lambda tensors: tensors.update({name: tensors[name][:-1]})


@pytest.mark.parametrize(
    "change, message",
    [
        (_without("blk.1.attn_k.weight"), "1 tensor(s) missing, the first is 'blk.1.attn_k.weight'"),
        (
            _cut("blk.2.ffn_up_exps.weight"),
            "'blk.2.ffn_up_exps.weight' has shape (7, 32, 32), its keys ask for",
        ),
        (
            lambda tensors: tensors.update({"blk.0.attn_z.weight": tensors["blk.0.attn_q.weight"]}),
            "unexpected tensor 'blk.0.attn_z.weight'; it is not part of a model of the architecture",
        ),
    ],
)
def test_tensors_that_do_not_belong_together(
    change: Any, message: str, exported: Exported, tmp_path: Path
) -> None:
    file = rewrite(exported("qwen3_moe")[1], tmp_path / "m.gguf", change=change)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Checkpoint.open(file).load()


def _also(name: str, like: str) -> Any:
    return lambda tensors: tensors.update({name: tensors[like]})


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        ({}, _without("blk.2.indexer.k_norm.bias"), "missing, the first is 'blk.2.indexer.k_norm.bias'"),
        (
            {},
            _cut("blk.0.indexer.proj.weight"),
            "'blk.0.indexer.proj.weight' has shape (1, 32), its keys ask",
        ),
        (
            {"glm-dsa.attention.indexer.types": None},
            None,
            "10 tensor(s) missing, the first is 'blk.1.indexer.",
        ),
        (
            {},
            _also("blk.1.indexer.z.weight", "blk.0.indexer.proj.weight"),
            "unexpected tensor 'blk.1.indexer.",
        ),
        ({"glm-dsa.attention.indexer.types": [0, 0, 1, 0]}, None, "the first layer must have an indexer"),
        ({"glm-dsa.attention.indexer.key_length": 32}, None, "its keys ask for (64, 12)"),
    ],
)
def test_an_indexer_fits_its_keys(
    keys: dict[str, Any], change: Any, message: str, exported: Exported, tmp_path: Path
) -> None:
    file = rewrite(exported("glm_moe_dsa")[1], tmp_path / "m.gguf", keys, change)
    with pytest.raises(CheckpointError, match=re.escape(message)) as error:
        Checkpoint.open(file).load()
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_layers_that_predict_further_tokens_are_left_out(exported: Exported, tmp_path: Path) -> None:
    """`block_count` counts them; their tensors come after those of the decoder."""

    def further(tensors: dict[str, Any]) -> None:
        tensors |= {
            name.replace("blk.3.", "blk.4."): tensor for name, tensor in tensors.items() if "blk.3." in name
        }
        tensors["blk.4.nextn.eh_proj.weight"] = tensors["blk.0.attn_q.weight"]

    directory, plain = exported("qwen3_moe")
    keys = {"qwen3moe.block_count": 5, "qwen3moe.nextn_predict_layers": 1}
    checkpoint = Checkpoint.open(rewrite(plain, tmp_path / "m.gguf", keys, further))
    assert torch.equal(logits(checkpoint.load().model), logits(Checkpoint.open(directory).load().model))
    assert any("blk.4" in line for line in checkpoint.notes)


def _zero_biases(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if name.endswith(".bias"):
            tensors[name] = tensors[name] * 0


# What transformers 5.23 drops without a word when it reads such files, and keys of other architectures:
# without them the answers differ, so the tests above would notice. Splits of tokenizers are in test_form.py.
@pytest.mark.parametrize(
    "kind, keys, change",
    [
        ("llama", {}, _without("rope_freqs.weight")),
        ("llama_yarn", {"llama.rope.scaling.type": None, "llama.rope.scaling.factor": None}, None),
        ("llama_linear", {"llama.rope.scaling.type": None, "llama.rope.scaling.factor": None}, None),
        ("llama_tied_bias", {}, _zero_biases),
        ("granite", {"granite.embedding_scale": None}, None),
        ("granite", {"granite.residual_scale": None}, None),
        ("granite", {"granite.attention.scale": 12**-0.5}, None),
        ("granite", {"granite.logit_scale": 1.0}, None),
        ("ministral3", {"mistral3.attention.temperature_scale": None}, None),
        ("ministral3_gains", {"mistral3.rope.scaling.yarn_log_multiplier": None}, None),
        ("mistral4", {"mistral4.attention.temperature_scale": 0.0}, None),
        ("mistral4", {"mistral4.rope.scaling.yarn_log_multiplier": None}, None),
        ("glm_moe_dsa", {"glm-dsa.expert_weights_norm": None}, None),
        ("glm_moe_dsa", {"glm-dsa.expert_weights_scale": None}, None),
        ("deepseek_v32", {"deepseek32.rope.scaling.yarn_log_multiplier": None}, None),
        ("phi3_long", {"phi3.rope.scaling.attn_factor": None}, None),
        ("phi3_long", {"phi3.rope.scaling.original_context_length": 128}, None),
        ("glm4", {"glm4.rope.dimension_count": 12}, None),
        ("olmo3", {"olmo2.attention.sliding_window": None}, None),
        ("hunyuan_v1_dense", {"hunyuan-dense.rope.freq_base": 10.0}, None),
    ],
)
def test_what_others_drop_changes_the_answers(
    kind: str, keys: dict[str, Any], change: Any, exported: Exported, tmp_path: Path
) -> None:
    extra: dict[str, Any] = {
        f"llama.rope.scaling.{name}": None for name in ("original_context_length", "attn_factor")
    }
    file = rewrite(exported(kind)[1], tmp_path / "m.gguf", keys | (extra if "yarn" in kind else {}), change)
    dropped, whole = (logits(Checkpoint.open(path).load().model) for path in (file, exported(kind)[1]))
    assert (dropped - whole).abs().max() > 0.05


def test_a_llama_with_experts_is_a_mixtral(exported: Exported) -> None:
    config = Checkpoint.open(exported("mixtral")[1]).config
    assert config.family == "mixtral" and len(config.moe_layers()) == config.num_layers
