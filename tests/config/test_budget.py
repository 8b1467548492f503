"""Budgets as users write them."""

from __future__ import annotations

import pytest

from coterie.config import ConfigError
from coterie.config.budget import TrainingBudget


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("10m", "seconds", 600),
        ("1.5h", "seconds", 5400),
        (" 90 s", "seconds", 90),
        ("5Mtok", "tokens", 5e6),
        ("20ktok", "tokens", 2e4),
        ("1e15flops", "flops", 1e15),
        ("2E+12 FLOPS", "flops", 2e12),
    ],
)
def test_budgets(text: str, kind: str, amount: float) -> None:
    found = TrainingBudget.read(text)
    assert (found.kind, found.amount) == (kind, pytest.approx(amount))


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "-3m", "1..2m", "10 parsecs", "1e999tok", "nanm"])
def test_what_is_not_a_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as 10m"):
        TrainingBudget.read(text)
