"""What all runs share that train a given model: the trainer, stated settings, the run shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from coterie.adapters.trainable import Tuned
from coterie.adapters.tuned import read_trainable, write_trainable
from coterie.config.effects import Facts, effective
from coterie.config.method_run import MethodRun
from coterie.recipes.run import Run
from coterie.train.callbacks import Callback
from coterie.train.loop import Batches, Trainer
from coterie.train.objective import Objective
from coterie.train.objectives import default_lr
from coterie.train.optim import build_optimiser
from coterie.train.schedule import multiplier


def method_trainer(
    config: MethodRun,
    tuned: Tuned,
    batches: Batches,
    objective: Objective,
    *,
    name: str,
    steps: int,
    strength: Callable[[], float] = lambda: 1.0,
    share_prompts: bool = False,
) -> Trainer:
    """The trainer of `tuned` over rows that a source makes, without callbacks.

    `name`: of the objective, for the default rate. `strength`: a factor on the rate of the next step.
    `share_prompts`: compute the prompt that neighbouring rows have in common once.
    """
    model = tuned.model
    numbers = sum(parameter.numel() for parameter in model.parameters())
    optimiser = config.optimiser.resolved(default_lr(config.method, name, numbers))
    assert optimiser.lr is not None
    model.recompute = config.recompute
    return Trainer(
        model,
        batches,
        objective,
        build_optimiser(model, optimiser),
        lambda step: multiplier(step, steps, config.schedule) * strength(),
        steps=steps,
        lr=optimiser.lr,
        **step_options(config),
        share_prompts=share_prompts,
        device=model.embed.weight.device,
    )


def step_options(config: MethodRun) -> dict[str, Any]:
    """The arguments of `Trainer` that are settings of such a run as they are."""
    names = ("seed", "accumulate", "clip_norm", "balance_prompts")
    return {name: getattr(config, name) for name in names}


def stated_method(
    config: MethodRun, trainer: Trainer, tuned: Tuned, facts: Facts | None = None
) -> dict[str, Any]:
    """The settings of a run that have an effect, with the choices that they leave to it.

    `facts`: those that decide (default: whether the model is a mixture).
    """
    made = {
        "optimiser": config.optimiser.model_copy(update={"lr": trainer.lr}),
        "dtype": str(tuned.model.compute_dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    facts = facts or Facts(moe=tuned.model.config.is_moe)
    return effective(config.model_copy(update=made), config.effects, facts)


def method_shell(
    trainer: Trainer,
    tuned: Tuned,
    callbacks: Sequence[Callback],
    inputs: Mapping[str, str],
    stated: Mapping[str, Any],
) -> Run:
    """What the run shell needs; checkpoints hold what is trained."""
    return Run(
        trainer,
        write=lambda directory: write_trainable(directory, tuned.model),
        read=lambda directory: read_trainable(directory, tuned.model),
        callbacks=callbacks,
        inputs=inputs,
        stated=stated,
    )
