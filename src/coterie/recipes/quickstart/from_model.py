"""The pair of `coterie quickstart --from`: the user's dense model, and a mixture of experts made from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError
from coterie.config.methods import CONTINUED_RATES, rate_for_size
from coterie.config.run import CONTINUED_WARMUP, TrainConfig
from coterie.data.heldout import measured_tokens
from coterie.plan.counts import count_parameters
from coterie.recipes.quickstart.plan import ROW_LENGTH, Plan
from coterie.recipes.quickstart.twins import settings
from coterie.recipes.surgery import Operation, operate
from coterie.surgery.arguments import check_upcycle

_log = logging.getLogger("coterie")

# Halves of the feed-forward, two of them chosen: as many active weights as in the dense model, and a router
# that learns, which it cannot where the weight of one chosen expert is always 1.
UPCYCLING: dict[str, Any] = {"num_experts": 8, "top_k": 2, "split": 2, "variation": "copy"}
BATCH_ROWS = 4
BYTES_PER_MINUTE = 500_000
# About seven measurements around a run from a given model; reading a token takes a third of training on it.
_MEASURED = 7 / 3


def affordable_tokens(tokens: int) -> int:
    """The tokens to train on in the time of `tokens`, measurements included."""
    # Solves trained + _MEASURED * measured = tokens, where an eighth is measured.
    return tokens - int(_MEASURED * measured_tokens(int(tokens / (1 + _MEASURED / 8))))


def pair_from(plan: Plan, start: str, out: Path) -> dict[str, TrainConfig]:
    """The training settings of both, "moe" and "dense", for the model `start`; writes `out`/upcycled.

    Errors: `ConfigError` for a mixture of experts, a family without a routed form, a model without a
    tokenizer, and one with fewer positions than a row of text.
    """
    checkpoint = Checkpoint.open(start)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    check_upcycle(config, **UPCYCLING)
    if tokenizer is None:
        raise ConfigError(f"{checkpoint.path}: has no tokenizer; the comparison reads text with it")
    if config.max_positions < ROW_LENGTH:
        raise ConfigError(
            f"{checkpoint.path}: has {config.max_positions} positions; the comparison reads rows of "
            f"{ROW_LENGTH} tokens"
        )
    words, mixture = out / "tokenizer", out / "upcycled"
    tokenizer.save(words)
    if plan.sweeps is None or not mixture.is_dir():
        _log.info(f"making a mixture of {UPCYCLING['num_experts']} experts of {checkpoint.name}")
        operate(checkpoint, mixture, Operation("upcycle", {**UPCYCLING, "seed": plan.seed}, data=()))
    data = {"tokenizer": str(words), "max_bytes": int(max(1.0, plan.minutes) * BYTES_PER_MINUTE)}
    own = {
        "batch_rows": BATCH_ROWS,
        "retention": "none",
        # The same for both. An expert weighs half, so its matrices must move twice as far as the dense ones.
        "optimiser": {
            "lr": rate_for_size(CONTINUED_RATES, count_parameters(config).total),
            "expert_lr": 2.0,
        },
        "schedule": {"kind": "wsd", "warmup_fraction": CONTINUED_WARMUP, "decay_fraction": 0.3},
    }
    starts = {"moe": str(mixture), "dense": start}
    return {
        name: settings({"from": given}, plan, out / name, out / "data", data, own)
        for name, given in starts.items()
    }
