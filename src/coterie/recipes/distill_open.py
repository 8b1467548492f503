"""Which teacher a run has: a model of this machine, or a server's."""

from __future__ import annotations

from pathlib import Path

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config.distill import DistillConfig
from coterie.config.errors import ConfigError
from coterie.recipes.distill_endpoint import EndpointTeacher
from coterie.recipes.distill_teacher import LocalTeacher, Teacher, own_tokenizer
from coterie.remote.client import is_url
from coterie.text.tokenizer import Tokenizer


def open_teacher(config: DistillConfig, device: torch.device) -> Teacher:
    """The teacher of a run. A server's has the student's tokenizer, or that of `data.tokenizer`.

    Errors: `CoterieError` subclasses, one line each.
    """
    if not is_url(config.teacher):
        if config.teacher_model is not None:
            raise ConfigError(f"teacher_model: {config.teacher} is no server; leave it out")
        return LocalTeacher.load(config.teacher, config.dtype, device)
    if "from" in config.student:
        checkpoint = Checkpoint.open(config.student["from"])
        return EndpointTeacher.connect(config, own_tokenizer(checkpoint), checkpoint.path)
    if config.data is None or config.data.tokenizer is None:
        raise ConfigError(
            "a fresh student of a server's model needs that model's tokenizer: give its directory as "
            "data.tokenizer"
        )
    path = Path(config.data.tokenizer)
    return EndpointTeacher.connect(config, Tokenizer.load(path), path)
