"""The source of rows: who writes a reply, how many tokens are learnt, and that the past changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.checkpoints.directory import load_model
from coterie.config.on_policy import OnPolicyConfig
from coterie.data.rows import Row
from coterie.reinforce.kept import kept_steps
from coterie.reinforce.on_policy import ReplySource, Writer, reply_row
from coterie.reinforce.prompts import Prompts
from coterie.train.row_logprobs import row_logprobs
from tests.recipes.tuned import base

Source = Callable[..., ReplySource]
PROMPTS = Prompts(lambda number: (3, 1 + number % 50, 7), [(3, 1, 7)], "some", "x")


class Told:
    """A trainer at a step, which keeps what is published."""

    def __init__(self, step: int) -> None:
        self.step_count = step
        self.records: list[dict[str, Any]] = []

    def publish(self, record: dict[str, Any]) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Writer, Writer]:
    """A student and a teacher."""
    place = tmp_path_factory.mktemp("writers")
    made = []
    for family in ("qwen3_moe", "llama"):
        loaded = load_model(base(place, family), "float32")
        assert loaded.tokenizer is not None
        made.append(Writer(loaded.model, loaded.tokenizer, 6))
    return made[0], made[1]


@pytest.fixture()
def source(writers: tuple[Writer, Writer], tmp_path: Path) -> Source:
    def made(own: float = 1.0, budgets: Any = None, **changes: Any) -> ReplySource:
        given = {"model": "m", "teacher": "t", "task": "parity", "prompts": 6, "max_tokens": 6} | changes
        config = OnPolicyConfig.from_dict(given)
        return ReplySource(config, PROMPTS, *writers, own=own, folder=tmp_path, budgets=budgets)

    return made


def rows_of(source: ReplySource, step: int) -> tuple[list[list[Row]], dict[str, Any]]:
    trainer = Told(step)
    source.on_start(trainer)  # type: ignore[arg-type]
    reader = source.batches(0)
    pieces = [next(reader) for _ in range(source.config.accumulate)]
    return pieces, trainer.records[0]


def same(first: list[Row], second: list[Row]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights)
        for a, b in zip(first, second, strict=True)
    )


def test_rows_carry_what_the_writer_said_and_its_log_probabilities(writers: tuple[Writer, Writer]) -> None:
    student = writers[0]
    reply = student.replies([(3, 5, 7)], (0, 1))[0]
    row = reply_row((3, 5, 7), reply)
    assert [*row.ids[:1], *row.targets] == [3, 5, 7, *reply.ids]
    assert row.weights.tolist() == [0, 0, *[1] * len(reply.ids)]
    read = row_logprobs(student.model, row).numpy()
    assert np.abs(read - row.streams["old_logp"])[2:].max() < 1e-4
    assert reply_row((3, 5, 7), reply, 1).weights.tolist() == [0, 0, 1, *[0] * (len(reply.ids) - 1)]


def test_a_step_depends_on_its_number_alone(source: Source, tmp_path: Path) -> None:
    one = source(group=2, accumulate=3)
    pieces, record = rows_of(one, 4)
    assert [len(piece) for piece in pieces] == [4, 4, 4] and record["replies"] == 12
    assert record["step"] == 5 and record["tokens"] == one.tokens_learnt
    assert pieces[0][0].ids[:3].tolist() == pieces[0][1].ids[:3].tolist()  # two replies to one prompt
    again = source(group=2, accumulate=3)
    rows_of(again, 0)
    assert all(same(a, b) for a, b in zip(pieces, rows_of(again, 4)[0], strict=True))
    assert not same(pieces[0], rows_of(again, 5)[0][0])
    kept = dict(kept_steps(tmp_path, ""))
    assert list(kept) == [1, 5, 6] and len(kept[5]) == 12
    rows = [row for piece in pieces for row in piece]
    assert [reply["tokens"] for reply in kept[5]] == [len(row.ids) for row in rows]
    assert [reply["ids"] for reply in kept[5]] == [row.targets[2:].tolist() for row in rows]


def test_a_share_is_written_by_the_teacher(writers: tuple[Writer, Writer], source: Source) -> None:
    def logprobs_differ(row: Row) -> bool:
        read = row_logprobs(writers[0].model, row).numpy()
        return bool(np.abs(read - row.streams["old_logp"])[row.weights > 0].max() > 1e-2)

    shares = {}
    for own in (0.0, 0.5, 1.0):
        rows = rows_of(source(own=own, group=4), 0)[0][0]
        shares[own] = sum(map(logprobs_differ, rows)) / len(rows)
    assert shares[0.0] == 1.0 and shares[1.0] == 0.0 and 0.2 < shares[0.5] < 0.8


@pytest.mark.parametrize(("budget", "accumulate"), [(7, 1), (50, 1), (7, 3), (50, 3)])
def test_a_budget_is_met_exactly(source: Source, budget: int, accumulate: int) -> None:
    pieces, record = rows_of(source(0.0, [0, budget], accumulate=accumulate), 1)
    rows = [row for piece in pieces for row in piece]
    assert sum(row.weights.sum() for row in rows) == record["tokens"] == budget
    assert all(pieces) and record["replies"] == len(rows)
    assert all(row.weights.sum() > 0 for row in rows)
