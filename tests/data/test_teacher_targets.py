"""Kept answers: exact in 16 bits, whole after a kill, and refused for anything they were not made for."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.config.errors import ConfigError, DataError
from coterie.data import teacher_targets
from coterie.data.rows import Row
from coterie.data.teacher_targets import OWN, Answers, TargetCache, TargetHeader, TaughtRows, rows_digest

SIZE, WIDTH = 6, 3
HEADER = TargetHeader("tok", "weights", "rows", "topk", WIDTH, 100, SIZE)


def row(number: int) -> Row:
    ids = np.arange(number, number + SIZE + 1, dtype=np.int32)
    return Row(ids[:-1], ids[1:], np.ones(SIZE, dtype=np.float32), (SIZE,))


ROWS = [row(number) for number in range(40)]


def answer(number: int) -> Answers:
    draw = np.random.default_rng(number)
    return {
        "teacher_ids": draw.integers(0, 100, (SIZE, WIDTH)),
        "teacher_logps": -draw.exponential(2, (SIZE, WIDTH)).astype(np.float32),
        "teacher_tail": -draw.exponential(2, SIZE).astype(np.float32),
        OWN: -draw.exponential(2, SIZE).astype(np.float32),
    }


def ask(rows: Sequence[tuple[int, Row]]) -> Iterator[Answers]:
    for number, given in rows:
        assert np.array_equal(given.ids, ROWS[number].ids)
        yield answer(number)


def never(rows: Sequence[tuple[int, Row]]) -> Iterator[Answers]:
    raise AssertionError(f"{len(rows)} rows were asked for")


def test_answers_come_back_as_they_were_given_to_16_bits(tmp_path: Path) -> None:
    cache = TargetCache(tmp_path / "cache", HEADER)
    assert cache.build(ROWS, [7, 3, 3, 21], ask) == 3
    again = TargetCache(tmp_path / "cache", HEADER)
    assert again.build(ROWS, [21, 7], never) == 0
    taught = TaughtRows(ROWS, again)
    for number in (3, 7, 21):
        found, expected = taught[number].streams, answer(number)
        assert np.array_equal(found["teacher_ids"], expected["teacher_ids"])
        for name in ("teacher_logps", "teacher_tail", OWN):
            assert np.array_equal(found[name], expected[name].astype(np.float16)), name
    assert np.array_equal(taught[3].ids, ROWS[3].ids)
    assert taught[4].streams == {}
    assert again.num_bytes == 3 * HEADER.record.itemsize
    # of each token: 3 ids and 3 log-probabilities of 2 bytes, the tail and its own; and the row's number
    assert HEADER.record.itemsize == SIZE * (3 * 2 + 3 * 2 + 2 + 2) + 4


def test_a_larger_run_asks_only_for_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_targets, "_SHARD_BYTES", 2 * HEADER.record.itemsize)
    cache = TargetCache(tmp_path, HEADER)
    cache.build(ROWS, range(5), ask)
    assert len(list(tmp_path.glob("rows-*.npy"))) == 3
    assert cache.build(ROWS, range(8), ask) == 3
    assert TargetCache(tmp_path, HEADER).missing(range(10)) == [8, 9]


def _build_and_die(directory: Path) -> None:
    def some(rows: Sequence[tuple[int, Row]]) -> Iterator[Answers]:
        for number, given in rows:
            if number == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from ask([(number, given)])

    teacher_targets._SHARD_BYTES = 4 * HEADER.record.itemsize
    TargetCache(directory, HEADER).build(ROWS, range(40), some)


def test_a_killed_build_goes_on_from_whole_shards(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_build_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (tmp_path / "rows-00000012-abc.npy.tmp-999999999-0badc0de").write_bytes(b"half a shard")
    cache = TargetCache(tmp_path, HEADER)
    assert cache.missing(range(40)) == list(range(12, 40))
    assert not list(tmp_path.glob("*.tmp-*"))
    assert cache.build(ROWS, range(40), ask) == 28
    whole = TaughtRows(ROWS, TargetCache(tmp_path, HEADER))
    assert all(np.array_equal(whole[n].streams["teacher_ids"], answer(n)["teacher_ids"]) for n in range(40))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": "other"}, "targets of another tokenizer"),
        ({"teacher": "other"}, "targets of another teacher"),
        ({"data": "other"}, r"targets of another data \(other rows\)"),
        ({"kind": "sampled"}, "targets of another targets.kind"),
        ({"width": 4}, "targets of another number of tokens"),
        ({"temperature": 2.0}, "targets of another temperature"),
        ({"seed": 1}, "targets of another targets.seed"),
    ],
)
def test_answers_to_something_else_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    TargetCache(tmp_path, HEADER).build(ROWS, [1], ask)
    with pytest.raises(ConfigError, match=words) as error:
        TargetCache(tmp_path, replace(HEADER, **change))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    TargetCache(tmp_path / "a", HEADER).build(ROWS, [1], ask)
    shard = next((tmp_path / "a").glob("rows-*.npy"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="is damaged; remove it"):
        TargetCache(tmp_path / "a", HEADER)
    shard.write_bytes(bytes(content[:50]))
    with pytest.raises(DataError, match="cannot be read"):
        TargetCache(tmp_path / "a", HEADER)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        TargetCache(tmp_path / "b", HEADER)


def test_too_full_a_disk_is_noticed_before_the_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TargetCache(tmp_path, HEADER)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="give another 'cache', a smaller"):
        cache.build(ROWS, range(40), never)


def test_the_digest_is_of_everything_that_is_read() -> None:
    same = rows_digest([row(1), row(2)])
    assert same == rows_digest([row(1), row(2)]) != rows_digest([row(2), row(1)])
    weights = row(1).weights.copy()
    weights[2] = 0
    assert rows_digest([replace(row(1), weights=weights), row(2)]) != same
