"""Arguments that no model of a config could follow are refused before weights are read."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError, ModelConfig
from coterie.families import config_from_hf
from coterie.surgery.arguments import CHECKS, check_arguments
from coterie.surgery.operations import OPERATIONS
from tests.families.hf import _BASE, CONFIGS

DENSE, MOE, GROUPED = "qwen3", "qwen3_moe", "deepseek_v3"
WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("prune", DENSE, {"keep": 0.5}, "dense"),
    ("prune", MOE, {"keep": 0.0}, "--keep 0"),
    ("prune", MOE, {"keep": 0.5, "method": "best"}, "unknown method"),
    ("merge-experts", DENSE, {"keep": 0.5}, "dense"),
    ("merge-experts", MOE, {"keep": 1.5}, "--keep 1.5"),
    ("merge-experts", MOE, {"keep": 1e-3}, "too few"),
    ("merge-experts", GROUPED, {"keep": 0.5}, "groups"),
    ("add-expert", DENSE, {}, "dense"),
    ("add-expert", MOE, {"source": 999}, "no expert 999"),
    ("add-expert", MOE, {"count": 0}, "0 experts"),
    ("densify", DENSE, {}, "dense"),
    ("densify", MOE, {"width": 10**6}, "inner units"),
    ("upcycle", MOE, {}, "already"),
    ("upcycle", DENSE, {"num_experts": 3, "split": 2}, "multiples"),
    ("upcycle", DENSE, {"variation": "wild"}, "unknown variation"),
    ("swap-expert", MOE, {"layer": 0, "expert": 999}, "no expert 999"),
    ("swap-expert", MOE, {"layer": 999, "expert": 0}, "in layer 999"),
]


def _config(name: str) -> ModelConfig:
    return config_from_hf(_BASE | CONFIGS[name])


@pytest.mark.parametrize(("kind", "family", "settings", "said"), WRONG)
def test_wrong_arguments_are_refused_from_the_config(
    kind: str, family: str, settings: dict[str, Any], said: str
) -> None:
    config = _config(family)
    own = settings | ({"other": config} if kind == "swap-expert" else {})
    with pytest.raises(ConfigError, match=said):
        check_arguments(kind, config, own)


def test_every_operation_has_a_check() -> None:
    assert CHECKS.keys() == OPERATIONS.keys() == {kind for kind, *_ in WRONG}
