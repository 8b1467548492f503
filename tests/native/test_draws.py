"""The compiled draw is sure of nearly all tokens; `tests/infer/test_sampling.py` compares what it draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coterie.native import draws


def one(scores: list[float], u: float, k: int = 9, p: float = 1.0, min_p: float = 0.0) -> int:
    row = np.array([scores], np.float32)
    return int(draws.draw(row, np.array([[row.max(), 1.0, k, p, min_p, u]]))[0])


FOUR = [float(np.log(x)) for x in (1, 8, 2, 4)]  # shares 1/15, 8/15, 2/15, 4/15


@pytest.mark.parametrize(
    ("settings", "edges"),
    [
        ({}, [(0, 1 / 15), (1, 9 / 15), (2, 11 / 15), (3, 1.0)]),  # in the order of the ids
        ({"min_p": 0.3}, [(1, 8 / 12), (3, 1.0)]),
        ({"k": 3}, [(1, 8 / 14), (3, 12 / 14), (2, 1.0)]),  # best first
        ({"p": 0.85}, [(1, 8 / 14), (3, 12 / 14), (2, 1.0)]),
        ({"p": 0.75}, [(1, 8 / 12), (3, 1.0)]),
        ({"k": 3, "p": 0.5}, [(1, 1.0)]),
        ({"k": 3, "min_p": 0.3}, [(1, 8 / 12), (3, 1.0)]),
    ],
)
def test_each_token_has_its_share(settings: dict[str, float], edges: list[tuple[int, float]]) -> None:
    low = 0.0
    for token, high in edges:
        assert one(FOUR, low + 1e-6, **settings) == token  # type: ignore[arg-type]
        assert one(FOUR, high - 1e-6, **settings) == token  # type: ignore[arg-type]
        low = high


def test_where_rounding_decides_it_is_not_sure() -> None:
    low = float(np.float32(0.7))
    two, small = [0.0, -low], math.exp(-low)
    assert one(two, 1 / (1 + small)) == draws.UNSURE
    assert one(two, 0.3, p=1 / (1 + small)) == draws.UNSURE  # whether the second token stays
    assert one(two, 0.3, min_p=small) == draws.UNSURE
    assert one([1.0, 1.0, 0.0], 0.2, k=2) == draws.UNSURE  # which of two equal tokens comes first
    assert one([1.0, 1.0, 0.0], 0.2) == 0  # by ids there is no question
    for bad in (math.nan, math.inf):
        assert one([0.0, bad, 1.0], 0.5) == draws.UNSURE


def test_it_is_nearly_always_sure() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(400, 3000)).astype(np.float32)
    settings = np.empty((400, draws.COLUMNS))
    settings[:, draws.MOST] = scores.max(1)
    settings[:, draws.INVERSE_TEMPERATURE] = 1 / generator.uniform(0.1, 2, 400)
    settings[:, draws.TOP_K] = generator.choice([10, 100, 3000], 400)
    settings[:, draws.TOP_P] = generator.choice([0.8, 1.0], 400)
    settings[:, draws.MIN_P] = generator.choice([0.0, 0.02], 400)
    settings[:, draws.UNIFORM] = generator.uniform(size=400)
    assert (draws.draw(scores, settings) == draws.UNSURE).sum() <= 2
