"""Files of items: what is written is read again, and what was changed is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.benchmarks import BENCHMARKS, items_digest, load_benchmark, read_items, write_items
from coterie.config import ConfigError
from coterie.contamination import items
from coterie.evaluate.splits import queried


@pytest.mark.parametrize("name", BENCHMARKS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    benchmark = load_benchmark(name, n=20, seed=5)
    path = tmp_path / "items.jsonl"
    digest = write_items(benchmark, path)
    again = read_items(path)
    assert digest == items_digest(benchmark.items()) == items_digest(again)
    assert [item.digest for item in again] == [item.digest for item in benchmark.items()]
    assert [item.cluster for item in again] == [item.cluster for item in benchmark.items()]
    loaded = load_benchmark(str(path))
    assert loaded.canary is not None and benchmark.canary is None and loaded.canary.id == "canary"
    assert (loaded.name, loaded.mode, loaded.executes) == (benchmark.name, benchmark.mode, benchmark.executes)
    assert loaded.recipe() == benchmark.recipe()
    item = loaded.items()[3]
    assert loaded.rewordings(item) == benchmark.rewordings(benchmark.items()[3])
    assert [one.digest for one in loaded.twins(item, 2)] == [
        one.digest for one in benchmark.twins(benchmark.items()[3], 2)
    ]
    if not benchmark.executes:
        replies = [benchmark.oracle(one) for one in benchmark.items()]
        verdicts = loaded.judge_all(again, [reply for reply in replies if reply is not None])
        assert len(verdicts) == 20 and all(verdict.right for verdict in verdicts)


def _changed(path: Path, line: int, **fields: object) -> Path:
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1])
    row = {name: value for name, value in {**row, **fields}.items() if value is not ...}
    lines[line - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        (3, {"answer": "7"}, "its items are not those that were written"),
        (3, {"answer": ...}, r"items.jsonl:3: the item has no 'answer'"),
        (3, {"answer": ""}, "has no answer; give one or leave it out"),
        (4, {"id": "arithmetic-00000"}, "two items have the id 'arithmetic-00000'"),
        (3, {"turns": "What?"}, r"items.jsonl:3: 'turns' is a str"),
        (3, {"colour": 1}, r"items.jsonl:3: the item has an unknown field 'colour'"),
        (1, {"version": "0"}, "was written for version 0 of arithmetic, and this is version 1"),
        (1, {"benchmark": 3}, r"items.jsonl:1: does not say which benchmark"),
        (1, {"benchmark": {"name": "nothing"}}, "benchmark 'nothing' does not exist"),
        (1, {"schema": "other"}, "is not a file of items"),
    ],
)
def test_a_changed_file_is_refused(
    line: int, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "items.jsonl"
    write_items(load_benchmark("arithmetic", n=10), path)
    _changed(path, line, **fields)
    with pytest.raises(ConfigError, match=message) as caught:
        load_benchmark(str(path)) if line == 1 and "schema" not in fields else read_items(path)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    write_items(load_benchmark("facts", n=10), path)
    path.write_text("\n".join(path.read_text().splitlines()[:-2]))
    with pytest.raises(ConfigError, match=r"not those that were written \(9 of 10\)"):
        read_items(path)
    with pytest.raises(ConfigError, match="its items are fixed; leave out n"):
        load_benchmark(str(path), n=3)
    with pytest.raises(ConfigError, match="is not a file of items"):
        read_items(tmp_path / "missing.jsonl")


def test_the_canary_is_no_item_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    benchmark = load_benchmark("facts", n=10)
    digests = {write_items(benchmark, path, secret) for secret in ("", "mine")}
    assert len(digests) == 1 and len(read_items(path)) == 10
    mine = load_benchmark(str(path))
    write_items(mine, tmp_path / "again.jsonl")
    again = load_benchmark(str(tmp_path / "again.jsonl"))
    assert mine.canary is not None and again.canary == mine.canary
    assert mine.canary.answer in path.read_text().splitlines()[-1]
    _changed(path, 12, answer="other words")
    with pytest.raises(ConfigError, match="last line is not the canary"):
        read_items(path)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ConfigError, match="last line is not the canary"):
        read_items(path)


@pytest.mark.parametrize("name", ["arithmetic", "facts", "tool-calls", "instructions", "calibration"])
def test_a_search_of_training_data_reads_the_same_file(name: str, tmp_path: Path) -> None:
    """`coterie index query` and `data.exclude` look up what an evaluation does; the canary is no item."""
    benchmark = load_benchmark(name, n=12)
    write_items(benchmark, tmp_path / "items.jsonl")
    assert items.read_items(tmp_path / "items.jsonl") == queried(benchmark.items())
