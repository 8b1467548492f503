"""What a tuning run says of itself: its settings with every choice made, and the content of what it reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.files import WEIGHTS, is_adapter
from coterie.adapters.trainable import Tuned
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.config.effects import Facts, effective
from coterie.config.files import file_sha256
from coterie.config.run import OptimiserConfig
from coterie.config.tune import TuneConfig
from coterie.data.teacher_targets import rows_digest
from coterie.data.tuning_rows import TuneData
from coterie.nn.parameter_groups import parameter_groups


def stated_settings(
    config: TuneConfig, tuned: Tuned, data: TuneData, optimiser: OptimiserConfig
) -> dict[str, Any]:
    """Every setting that had an effect, with its value: no choice is left open and nothing is untrue.

    Given as a file of settings, they make the same run.
    """
    model, adapter = tuned.model, tuned.model.adapter
    present = {str(group) for group in parameter_groups(model).values()}
    made: dict[str, Any] = {
        "objective": data.objective,
        "dtype": str(model.compute_dtype).removeprefix("torch."),
        "device": str(model.embed.weight.device),
        "threads": torch.get_num_threads(),
        "row_length": data.row_length,
        "batch_rows": data.batch_rows,
        "steps": data.steps,
        "train": {group: how for group, how in tuned.treatments.items() if group in present},
        "router": config.router if config.router == "dense-grad" else None,
        "optimiser": config.optimiser.model_copy(update={"lr": optimiser.lr}),
    }
    if adapter is not None:
        made |= {"rank": adapter.rank, "alpha": adapter.alpha, "dropout": adapter.dropout}
        made["rank_rule"] = adapter.rank_rule
    if made["router"] is not None:  # it says what happens to that group, which is said once
        made["train"].pop("router", None)
    facts = Facts(moe=model.config.is_moe, objective=data.objective)
    return effective(config.model_copy(update=made), config.effects, facts)


def base_inputs(tuned: Tuned) -> dict[str, str]:
    """What a given model brings to a run, in words -> a hash of its content."""
    tokenizer = tuned.tokenizer
    return {
        "tokenizer": tokenizer.sha256,
        "chat template": hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest(),
        "base (the weights of the model)": weights_fingerprint(tuned.base),
    }


def run_inputs(config: TuneConfig, tuned: Tuned, data: TuneData) -> dict[str, str]:
    """What the run reads, in words -> a hash of its content; an earlier one may explain later ones."""
    found = base_inputs(tuned)
    if is_adapter(config.model):
        found["adapter to train further"] = file_sha256(Path(config.model).expanduser() / WEIGHTS)
    if config.experts is not None:
        found["selection of experts"] = file_sha256(Path(config.experts))
    found["set of examples (the data)"] = rows_digest(data.rows)
    return found | {"set of held-out examples": rows_digest(data.held_out)}
