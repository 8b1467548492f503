"""Layers with a state (gated delta rule, short convolution, Mamba2): coterie against transformers.

One tiny dense model per mixer with three layers of it and one of attention, the same random weights on
both sides, float32. A round is a forward and backward pass of 4 x 256 tokens and a greedy reply of 32 tokens
to 64, each side in turn; figures are processor time, ratios are taken within a round. Beside them: what
autograd keeps per token in one mixer layer, and what `training_values` says.

    python bench/mixers.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from common import RESULTS, environment, median, median_ratio, timed, write_json
from coterie.checkpoints.directory import load_model
from coterie.config.mixers import STATE_MIXERS
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer

ROWS, LENGTH, PROMPT, REPLY = 4, 256, 64, 32
SHAPE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "gated delta": {
        "model_type": "qwen3_5_text",
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    },
    "short convolution": {
        "model_type": "lfm2",
        "layer_types": ["conv"] * 3 + ["full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "Mamba2": {
        "model_type": "granitemoehybrid",
        "num_local_experts": 0,
        "shared_intermediate_size": 512,
        "mamba_n_heads": 8,
        "mamba_d_state": 32,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "layer_types": ["mamba"] * 3 + ["attention"],
    },
}


def pair(settings: dict[str, Any], folder: Path) -> tuple[Transformer, Any]:
    """The same random model here and in transformers."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(SHAPE | settings))).float()
    theirs.save_pretrained(folder)
    return load_model(folder, dtype="float32").model, theirs


def our_step(model: Transformer, ids_BT: Tensor) -> float:
    """Loss of the next tokens, with its gradients."""
    h_TD = model(ids_BT.flatten(), ForwardContext.packed([LENGTH] * ROWS))
    h_TD = h_TD.view(ROWS, LENGTH, -1)[:, :-1].flatten(0, 1)
    loss = -model.logits(h_TD).log_softmax(-1).gather(-1, ids_BT[:, 1:].reshape(-1, 1)).mean()
    model.zero_grad()
    loss.backward()
    return float(loss.detach())


def their_step(model: Any, ids_BT: Tensor) -> float:
    """The same."""
    loss = model(ids_BT, labels=ids_BT).loss
    model.zero_grad()
    loss.backward()
    return float(loss.detach())


def kept_values(layer: nn.Module, width: int) -> float:
    """Numbers per token that autograd keeps for one mixer layer, parameters and its input left out."""
    x_TD = torch.randn(ROWS * LENGTH, width, requires_grad=True)
    mine = {tensor.untyped_storage().data_ptr() for tensor in (x_TD, *layer.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = layer(x_TD, ForwardContext.packed([LENGTH] * ROWS), None, 0)  # noqa: F841 (keeps the graph)
    return sum(kept.values()) / (ROWS * LENGTH)


def measure(settings: dict[str, Any], rounds: int, folder: Path) -> dict[str, Any]:
    """Medians, ratios, and the values of one mixer layer."""
    ours, theirs = pair(settings, folder)
    engine = Engine(ours)
    ids = torch.randint(2, 1024, (rounds + 1, ROWS, LENGTH))
    seconds: dict[str, list[float]] = {name: [] for name in ("step", "their step", "reply", "their reply")}
    for number, ids_BT in enumerate(ids):
        found = {}
        losses = []
        found["step"] = timed(lambda: losses.append(our_step(ours.train(), ids_BT)))[1]  # noqa: B023
        found["their step"] = timed(lambda: losses.append(their_step(theirs.train(), ids_BT)))[1]  # noqa: B023
        assert abs(losses[0] - losses[1]) < 1e-3, losses
        ours.eval(), theirs.eval()
        prompt = ids_BT[:1, :PROMPT]
        params = SamplingParams(temperature=0, max_tokens=REPLY)
        found["reply"] = timed(lambda: engine.generate([prompt[0].tolist()], params))[1]  # noqa: B023
        with torch.no_grad():
            greedy = {"do_sample": False, "max_new_tokens": REPLY, "min_new_tokens": REPLY}
            found["their reply"] = timed(lambda: theirs.generate(prompt, **greedy))[1]  # noqa: B023
        if number:
            for name, value in found.items():
                seconds[name].append(value)
    mixer, block = ours.config.blocks[0].attention, ours.blocks[0]
    assert isinstance(mixer, STATE_MIXERS)
    return {
        "seconds": {name: median(values) for name, values in seconds.items()},
        "ratios": {part: median_ratio(seconds[part], seconds[f"their {part}"]) for part in ("step", "reply")},
        "kept_per_token": kept_values(block.attention.train(), ours.config.width),
        "training_values": mixer.training_values,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "mixers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for name, settings in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            models[name] = measure(settings, options.rounds, Path(folder))
        print(name, models[name], flush=True)
    write_json(options.out, {"environment": environment(), "rounds": options.rounds, "models": models})


if __name__ == "__main__":
    main()
