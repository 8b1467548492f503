"""A model on disk that is asked the problems of a task: for pools, rejection sampling and pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coterie.config.errors import ConfigError
from coterie.config.pool import SamplingOptions
from coterie.infer.model import load
from coterie.reinforce.rollouts import Sampler
from coterie.tasks.problem import TaskFamily


@dataclass(frozen=True)
class Answers:
    """The greedy replies to held-out problems: which are right, and how long all are, in tokens."""

    right: list[bool]
    tokens: int

    @property
    def mean_tokens(self) -> float:
        """Of a reply."""
        return self.tokens / max(1, len(self.right))


def load_sampler(model: str, family: TaskFamily, settings: SamplingOptions) -> Sampler:
    """The sampler of a model, an adapter or a patch. Errors: `CoterieError` subclasses, one line each."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    loaded = load(model, dtype=settings.dtype, device=settings.device)
    if loaded.tokenizer is None:
        raise ConfigError(f"{model}: has no tokenizer.json, so it cannot be asked; add its own")
    return Sampler(loaded.model, loaded.tokenizer, family, settings.max_tokens, settings.instruction)


def held_out_answers(sampler: Sampler, levels: Sequence[int], count: int, seed: int) -> Answers:
    """Greedy replies to up to `count` problems of the split `test`: the same ones for every model."""
    problems = list(sampler.family.problems(levels, count, "test", seed, fewer=True))
    groups = sampler.greedy(problems)
    tokens = sum(len(rollout.ids) for group in groups for rollout in group.rollouts)
    return Answers([group.num_right > 0 for group in groups], tokens)
