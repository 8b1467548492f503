"""The coverage contract: everything that is to be trained gets gradients, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from coterie.checkpoints.quantise import weights_by_group
from coterie.config.errors import TrainingError
from coterie.config.model import ModelConfig
from coterie.nn.experts import ExpertLinear
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.results.tuning import GroupPlan, GroupReach
from coterie.train.callbacks import Callback
from coterie.train.running import RunningTraining

_PIECE, _64 = 1 << 20, (1 << 64) - 1


def plan_table(
    model: nn.Module, treatments: Mapping[str, str], ranks: Mapping[str, int], tokens_per_step: float
) -> list[GroupPlan]:
    """One entry per group of the model. `treatments` and `ranks` are by group; either may omit groups.

    `tokens_per_step`: learnt from in one optimiser step, for the mean number of tokens per expert.
    """
    groups = parameter_groups(model)
    config: Any = getattr(model, "config", None)
    sizes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        total, trainable = sizes.setdefault(groups[name], [0, 0])
        own = parameter.numel()
        sizes[groups[name]] = [total + own, trainable + own * parameter.requires_grad]
    kept = weights_by_group(model) if isinstance(model, Transformer) else {}
    plan = []
    for group, (total, trainable) in sizes.items():
        bits = None
        if group in kept:  # weights that are stored as codes are not parameters
            bits = kept[group].bits
            total = max(total, kept[group].numbers)
        tokens = (
            _tokens_per_expert(config, tokens_per_step) if group == "experts" and config is not None else None
        )
        treatment = treatments.get(group, "full" if trainable else "freeze")
        plan.append(GroupPlan(group, total, trainable, treatment, ranks.get(group), bits, tokens))
    return plan


def _tokens_per_expert(config: ModelConfig, tokens: float) -> float | None:
    shares = [moe.router.top_k / moe.router.num_experts for _, moe in config.moe_layers()]
    return tokens * sum(shares) / len(shares) if shares else None


def plan_lines(plan: list[GroupPlan]) -> list[str]:
    """The table as text."""
    head = ("group", "parameters", "trainable", "how", "rank", "bits", "tokens per expert")
    rows = [head] + [
        (
            entry.group,
            f"{entry.parameters:,}",
            f"{entry.trainable:,}",
            entry.treatment,
            "" if entry.rank is None or entry.treatment != "lora" else str(entry.rank),
            "" if entry.bits is None else f"{entry.bits:.1f}",
            "" if entry.tokens is None else f"{entry.tokens:,.1f}",
        )
        for entry in plan
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    cells = zip(row, widths, strict=True)
    return [
        cell.ljust(width) if at in (0, 3) else cell.rjust(width) for at, (cell, width) in enumerate(cells)
    ]


def reach(model: nn.Module) -> list[GroupReach]:
    """What gradients reach, read from the gradients that are there now, one entry per trained group.

    A layer is reached when one of its tensors has a gradient that is not zero.
    """
    groups = parameter_groups(model)
    layers: dict[str, dict[str, bool]] = {}
    experts: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group, layer = groups[name], name.rpartition(".")[0]
        seen = parameter.grad is not None and bool((parameter.grad != 0).any())
        found = layers.setdefault(group, {})
        found[layer] = found.get(layer, False) or seen
        if isinstance(model.get_submodule(layer), ExpertLinear) and parameter.grad is not None:
            busy_E = (parameter.grad.flatten(1) != 0).any(1)
            before_E = experts.setdefault(group, {}).get(layer)
            experts[group][layer] = busy_E if before_E is None else busy_E | before_E
    result = []
    for reached_group, tensors in layers.items():
        busy = experts.get(reached_group, {}).values()
        total = sum(each.numel() for each in busy) if busy else None
        reached = sum(int(each.sum()) for each in busy) if busy else None
        result.append(GroupReach(reached_group, len(tensors), sum(tensors.values()), total, reached))
    return result


def require_reach(found: list[GroupReach], asked: set[str]) -> None:
    """Check that gradients reach every group in `asked`.

    Errors: `TrainingError` naming a group without a trainable tensor or without any gradient.
    """
    by_group = {entry.group: entry for entry in found}
    for group in sorted(asked):
        entry = by_group.get(group)
        if entry is None:
            raise TrainingError(f"'{group}' was to be trained but has no trainable tensor; the run stops")
        if entry.reached == 0:
            raise TrainingError(
                f"'{group}' was to be trained and none of its {entry.layers} layers gets a gradient; "
                "the run stops"
            )


class Coverage(Callback):
    """Checks after the first backward pass that every group in `asked` is reached; keeps `found`.

    At the start it takes a checksum of each frozen tensor's bits, which `require_frozen` compares. A resumed
    run keeps its finding.
    """

    def __init__(self, asked: set[str]) -> None:
        self.asked = asked
        self.found: list[GroupReach] | None = None
        self._frozen: dict[str, int] = {}

    def on_start(self, trainer: RunningTraining) -> None:
        self._frozen = _frozen_marks(trainer.model)

    def state_dict(self) -> dict[str, Any]:
        return {"found": [asdict(entry) for entry in self.found]} if self.found is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found = [GroupReach(**entry) for entry in state["found"]]

    def after_backward(self, trainer: RunningTraining) -> None:
        if self.found is not None:
            return
        self.found = reach(trainer.model)
        require_reach(self.found, self.asked)
        place = {"step": trainer.step_count, "tokens": trainer.tokens, "seconds": trainer.seconds}
        trainer.publish({"kind": "coverage", **place, "groups": [asdict(entry) for entry in self.found]})

    def require_frozen(self, model: nn.Module) -> None:
        """Check that frozen tensors are as they were at the start. Errors: `TrainingError` naming one."""
        now = _frozen_marks(model)
        for name, mark in self._frozen.items():
            if now.get(name) != mark:
                raise TrainingError(f"'{name}' was to stay frozen and has changed; nothing is saved")


def _frozen_marks(model: nn.Module) -> dict[str, int]:
    """Checksum of each frozen parameter: the sum over its bits, each times an odd number, modulo 2^64.

    The odd numbers differ from place to place. Any change of a single number changes the sum; so does nearly
    every other change, numbers that swap places included.
    """
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    marks = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            bits = parameter.detach().contiguous().view(-1).view(kinds[parameter.element_size()])
            marks[name] = sum(int((part.long() * _odd(part)).sum()) for part in bits.split(_PIECE)) & _64
    return marks


def _odd(part: Tensor) -> Tensor:
    return torch.arange(1, 2 * part.numel(), 2, device=part.device)
