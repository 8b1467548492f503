"""Keys work both ways: what a file's keys say of the config is the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.gguf.architectures import describe
from coterie.llamacpp.key_tables import Parts, config_values
from coterie.llamacpp.targets import keys_of
from tests.gguf.models import KINDS, write


@pytest.mark.parametrize("kind", KINDS)
def test_keys_read_back_as_the_config(kind: str, tmp_path: Path) -> None:
    config = Checkpoint.open(write(kind, tmp_path / "m")).config
    described, parts = describe(config), Parts.of(config)
    assert described.target.name == KINDS[kind][2]
    keys = keys_of(described.target, config)
    assert len({key.name for key in keys}) == len(keys)
    values = config_values(keys, described.keys)
    assert {"model.width", "model.num_layers", "attention.num_heads", "rope.theta"} <= values.keys()
    assert {place: parts.value(place) for place in values} == values


def test_codes_are_read_back_as_words(tmp_path: Path) -> None:
    config = Checkpoint.open(write("deepseek_v3", tmp_path / "m")).config
    described = describe(config)
    assert described.keys["expert_gating_func"] == 2
    assert config_values(keys_of(described.target, config), described.keys)["router.score"] == "sigmoid"
