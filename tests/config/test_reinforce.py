"""What YAML makes of levels, in every settings object that has them."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError, Settings
from coterie.config.on_policy import OnPolicyConfig
from coterie.config.pipeline import RowsConfig
from coterie.config.pool import PoolConfig
from coterie.config.reinforce import ReinforceConfig

GIVEN: dict[type[Settings], dict[str, Any]] = {
    ReinforceConfig: {"model": "m", "task": "parity"},
    OnPolicyConfig: {"model": "m", "task": "parity", "teacher": "t"},
    PoolConfig: {"model": "m", "task": "parity", "out": "pool.jsonl"},
    RowsConfig: {"task": "parity", "out": "rows.jsonl"},
}


@pytest.mark.parametrize("kind", GIVEN, ids=lambda kind: kind.__name__)
def test_one_level_may_be_a_number(kind: type[Settings]) -> None:
    for levels, expected in ((3, "3"), ("0-4", "0-4"), (None, None)):
        settings: Any = kind.from_dict(GIVEN[kind] | {"levels": levels}, "here")
        assert settings.levels == expected
    for wrong in (True, [1], 0.5):
        with pytest.raises(ConfigError, match="'levels': Input should be a valid string"):
            kind.from_dict(GIVEN[kind] | {"levels": wrong}, "here")
