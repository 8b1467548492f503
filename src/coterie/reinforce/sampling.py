"""A model on disk that is asked the problems of a task: for pools, rejection sampling and pipelines."""

from __future__ import annotations

import torch

from coterie.config.errors import ConfigError
from coterie.config.pool import SamplingOptions
from coterie.infer.model import load
from coterie.reinforce.rollouts import Sampler
from coterie.tasks.problem import TaskFamily


def load_sampler(model: str, family: TaskFamily, settings: SamplingOptions) -> Sampler:
    """The sampler of a model, an adapter or a patch. Errors: `CoterieError` subclasses, one line each."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    loaded = load(model, dtype=settings.dtype, device=settings.device)
    if loaded.tokenizer is None:
        raise ConfigError(f"{model}: has no tokenizer.json, so it cannot be asked; add its own")
    return Sampler(loaded.model, loaded.tokenizer, family, settings.max_tokens, settings.instruction)
