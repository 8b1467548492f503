"""A mixture of experts and its dense twin: equal active parameters, everything else the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.run import TrainConfig
from coterie.recipes.quickstart.plan import BATCH_ROWS, ROW_LENGTH, Plan

VOCAB_SIZE = 2048
NUM_EVALUATIONS = 12
BYTES_PER_MINUTE = 2_000_000


def twins(minutes: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings as in `config.json` of the pair (mixture of experts, dense), by the time there is.

    Both fit a run of about `minutes` on two cores.
    The dense feed-forward is as wide as the chosen experts together, and a little wider to make up for the
    router's parameters, so that the dense twin never has fewer active parameters.
    """
    width, layers = (128, 4) if minutes < 30 else (256, 6)
    num_experts, top_k, expert_width = 16, 2, width
    common = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 64,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    }
    moe = common | {
        "model_type": "qwen3_moe",
        "num_experts": num_experts,
        "num_experts_per_tok": top_k,
        "norm_topk_prob": True,
        "moe_intermediate_size": expert_width,
        "router_aux_loss_coef": 0.01,
    }
    router_columns = -(-num_experts // 3)
    dense_width = -(-(top_k * expert_width + router_columns) // 8) * 8
    return moe, common | {"model_type": "qwen3", "intermediate_size": dense_width}


def twin_config(model: Mapping[str, Any], plan: Plan, out: Path, data_dir: Path) -> TrainConfig:
    """The training settings of one twin; `with_budget` sets the budget and the learning rate."""
    data = {
        "vocab_size": VOCAB_SIZE,
        # More text than the time allows would be prepared and never trained on.
        "max_bytes": int(max(1.0, plan.minutes) * BYTES_PER_MINUTE) if plan.data else None,
    }
    own = {
        "batch_rows": BATCH_ROWS,
        # The same for both; the dense twin has no experts or routers for these two factors to act on.
        "optimiser": {"expert_lr": 2.0, "router_lr": 0.2},
        "schedule": {"kind": "wsd", "warmup_fraction": 0.03, "decay_fraction": 0.3},
    }
    return settings(model, plan, out, data_dir, data, own)


def settings(
    model: Mapping[str, Any],
    plan: Plan,
    out: Path,
    data_dir: Path,
    data: Mapping[str, Any],
    own: Mapping[str, Any],
) -> TrainConfig:
    """The training settings of one model of a pair: what every pair shares, with `data` and `own` added."""
    return TrainConfig.from_dict(
        {
            "model": dict(model),
            "data": {
                "sources": [plan.data or "primer"],
                "row_length": ROW_LENGTH,
                "seed": plan.seed,
                **data,
            },
            "steps": 1,
            "seed": plan.seed,
            "threads": plan.threads,
            "keep": 1,
            "out": str(out),
            "data_dir": str(data_dir),
            **own,
        },
        "quickstart",
    )


def with_budget(config: TrainConfig, plan: Plan, name: str) -> TrainConfig:
    """The training settings with the plan's tokens and the twin's own best learning rate."""
    assert plan.sweeps is not None and plan.tokens is not None
    steps = max(1, plan.tokens // (config.batch_rows * config.data.row_length))
    return config.model_copy(
        update={
            "steps": steps,
            "eval_every": max(1, steps // NUM_EVALUATIONS),
            # A checkpoint of a given model may be large; a stopped run still writes one.
            "save_every": max(1, steps // 4) if plan.start is None else 0,
            "optimiser": config.optimiser.model_copy(update={"lr": plan.sweeps[name].best}),
        }
    )
