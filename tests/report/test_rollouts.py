"""Kept replies: what is packed for the page can be unpacked, within the budget; figures of each step."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import random

from coterie.report.rollouts import keep_rollouts, pack
from tests.report.reinforced import HOSTILE, kept


def unpack(data: str) -> list[dict]:
    """What the page's script makes of a packed step."""
    return json.loads(gzip.decompress(base64.b64decode(data)))


def test_a_step_is_packed_by_problem_without_ids() -> None:
    rows = [
        kept(1, 7, True, HOSTILE),
        kept(1, 7, False),
        kept(1, 8, False, advantage=None, turns=[{"role": "tool"}]),
    ]
    data = pack(rows)
    assert not set(data) & set("<>&\"'")
    first, second = unpack(data)
    assert (first["problem"], first["level"], first["prompt"], first["answer"]) == (
        "toy/1/7",
        1,
        "Problem 7?",
        "7",
    )
    assert [one["content"] for one in first["replies"]] == [HOSTILE, "Answer: 1"]
    assert [one["advantage"] for one in first["replies"]] == [0.5, -0.5]
    assert first["replies"][0]["tokens"] == 2 and first["replies"][0]["mean_logprob"] == -1.0
    assert second["replies"][0]["turns"] == [{"role": "tool"}] and "ids" not in second["replies"][0]


def test_figures_of_each_step_are_means() -> None:
    steps = [(1, [kept(1, 0, True), kept(1, 0, False), kept(1, 1, True)]), (2, [kept(2, 1, False)])]
    found = keep_rollouts(steps)
    assert found.by_level == {0: [(1, 0.5)], 1: [(1, 1.0), (2, 0.0)]}
    assert found.parts == {"right": [(1, 2 / 3), (2, 0.0)], "form": [(1, 0.5), (2, 0.5)]}
    assert (found.steps, found.replies, found.whole) == (2, 4, True)


def test_beyond_the_budget_evenly_spaced_steps_stay() -> None:
    rng = random.Random(0)
    noise = [(step, [kept(step, 0, True, rng.randbytes(300).hex())]) for step in range(1, 41)]
    whole = keep_rollouts(noise)
    size = sum(len(one.data) for one in whole.packed)
    found = keep_rollouts(noise, size // 4)
    steps = [one.step for one in found.packed]
    assert sum(len(one.data) for one in found.packed) <= size // 4
    assert not found.whole and found.steps == 40 and 8 <= len(steps) <= 10
    assert steps[0] == 1 and steps[-1] == 40
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert max(gaps) - min(gaps) <= 1
    assert keep_rollouts(noise, 10).packed == [] and keep_rollouts(noise, 10).replies == 40
    assert [one.step for one in keep_rollouts(noise, len(whole.packed[-1].data)).packed] == [40]


def test_a_run_without_replies_has_none() -> None:
    found = keep_rollouts([])
    assert (found.steps, found.replies, list(found.packed), found.whole) == (0, 0, [], True)
