"""How many models are in memory when one is read."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.nn.transformer import Transformer


def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Transformer]]:
    """From now on no model may be read while another one that was read is in memory; returns all of them."""
    read: list[weakref.ref[Transformer]] = []
    load = Checkpoint.load

    def loads(self: Checkpoint, *arguments: Any, **named: Any) -> Any:
        gc.collect()
        assert all(model() is None for model in read), "another model is in memory"
        loaded = load(self, *arguments, **named)
        read.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(Checkpoint, "load", loads)
    return read
