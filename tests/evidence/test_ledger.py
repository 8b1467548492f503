"""The ledger of looks: a chain that shows every change, cut and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coterie.config import CoterieError
from coterie.evidence.canonical import canonical, digest_bytes, digest_of
from coterie.evidence.ledger import START, Ledger, LedgerEntry, LookOutcome, commitment, outcomes_of
from coterie.results.evaluation import ItemRecord

OUTCOMES = [
    LookOutcome(digest=digest_bytes(bytes([n])), cluster=f"c{n % 3}", score=n % 2 / 3) for n in range(7)
]
ITEMS, PROMPT = digest_bytes(b"items"), digest_bytes(b"prompt")


def filled(path: Path, count: int = 4) -> Ledger:
    ledger = Ledger(path)
    for number in range(count):
        ledger.record(digest_bytes(bytes([number])), "arithmetic", ITEMS, PROMPT, OUTCOMES[number:])
    return ledger


def test_each_entry_continues_the_one_before(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl")
    entries = ledger.check()
    assert [one.prev for one in entries] == [START, *(one.digest for one in entries[:-1])]
    assert ledger.head() == entries[-1].digest == digest_of(entries[-1].to_dict())
    assert [one.score_commitment for one in entries] == [commitment(OUTCOMES[n:]) for n in range(4)]
    assert [ledger.outcomes(one) for one in entries] == [OUTCOMES[n:] for n in range(4)]
    assert Ledger(tmp_path / "none").head() == START and Ledger(tmp_path / "none").check() == []


def test_the_outcome_of_an_item_is_the_mean_over_its_seeds() -> None:
    def record(digest: str, seed: int, score: float, failed: bool = False) -> ItemRecord:
        return ItemRecord(
            task="t", id=digest, digest=digest, cluster="c", prompt="p", seed=seed, score=score,
            right=score == 1, failed=failed,
        )  # fmt: skip

    records = [record("a", 1, 1.0), record("b", 1, 0.0), record("a", 2, 0.0), record("c", 1, 0.0, True)]
    assert [(one.digest, one.score) for one in outcomes_of(records)] == [("a", 0.5), ("b", 0.0)]


def test_a_changed_moved_or_missing_entry_is_named(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl")
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[1]) | {"task": "other"}
    cases = {
        "line 3 does not continue line 2": [lines[0], canonical(changed) + b"\n", *lines[2:]],
        "line 2 does not continue line 1": [lines[0], *lines[2:]],
        "line 1 does not continue the start": lines[1:],
        "line 2 does not continue": [lines[0], lines[2], lines[1], lines[3]],
        "line 2 is not in canonical form": [lines[0], b" " + lines[1], *lines[2:]],
        "line 2 is not an entry": [lines[0], b"{}\n", *lines[2:]],
        "line 2 is not valid JSON": [lines[0], b"\0\n", *lines[2:]],
    }
    for says, content in cases.items():
        ledger.path.write_bytes(b"".join(content))
        with pytest.raises(CoterieError, match=says) as caught:
            ledger.check()
        assert "\n" not in str(caught.value)


def test_every_changed_byte_is_found_where_a_head_is_known(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl", 2)
    content, head = ledger.path.read_bytes(), ledger.head()
    for place in range(0, len(content), 3):
        ledger.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CoterieError):
            ledger.check([head])


def test_a_cut_ledger_lacks_a_known_head(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl")
    entries = ledger.entries()
    heads = [one.digest for one in entries]
    ledger.check([START, *heads])
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:2]))
    ledger.check(heads[:2])
    with pytest.raises(CoterieError, match=f"was cut or written anew: it lacks the head {heads[3][7:19]}"):
        ledger.check([heads[3]])
    ledger.record(digest_bytes(b"new"), "arithmetic", ITEMS, PROMPT, OUTCOMES)  # a fork is whole by itself
    ledger.check(heads[:2])
    with pytest.raises(CoterieError, match="was cut"):
        ledger.check(heads)


def test_other_or_missing_outcomes_are_found(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl", 2)
    file = ledger.results / f"{commitment(OUTCOMES[1:])[7:]}.json"
    content = file.read_text()
    file.write_text(content.replace('"score": 0.0', '"score": 1.0', 1))
    with pytest.raises(CoterieError, match=r"line 2: .*holds other outcomes"):
        ledger.check()
    file.write_text('{"outcomes": [{}]}')
    with pytest.raises(CoterieError, match="holds no outcomes"):
        ledger.check()
    file.unlink()
    with pytest.raises(CoterieError, match=r"line 2: .*cannot be read"):
        ledger.check()


def test_a_line_that_was_never_finished_is_no_entry_and_the_next_look_removes_it(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "looks.jsonl", 2)
    content, head = ledger.path.read_bytes(), ledger.head()
    for cut in (1, 40, 300):
        ledger.path.write_bytes(content + content[:cut])
        assert ledger.torn and ledger.head() == head
        ledger.record(digest_bytes(b"next"), "arithmetic", ITEMS, PROMPT, OUTCOMES)
        assert not ledger.torn and ledger.entries()[-1].prev == head and len(ledger.check([head])) == 3
    ledger.path.write_bytes(content[:100])  # the first line itself
    assert ledger.entries() == [] and ledger.torn
    ledger.record(digest_bytes(b"next"), "arithmetic", ITEMS, PROMPT, OUTCOMES)
    assert len(ledger.check()) == 1


WRITER = """
import sys
from coterie.evidence.canonical import digest_bytes
from coterie.evidence.ledger import Ledger, LookOutcome
ledger = Ledger(sys.argv[1])
outcomes = [LookOutcome(digest=digest_bytes(sys.argv[2].encode()), cluster="c", score=0.5)]
for number in range(int(sys.argv[3])):
    ledger.record(digest_bytes(b"w"), sys.argv[2], digest_bytes(b"i"), digest_bytes(b"p"), outcomes)
    print(number, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE
    )


def test_processes_that_look_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    running = [writer(path, name, 40) for name in ("a", "b", "c")]
    for one in running:
        one.communicate()
    entries: list[LedgerEntry] = Ledger(path).check()
    assert len(entries) == 120
    assert {name: sum(one.task == name for one in entries) for name in "abc"} == {"a": 40, "b": 40, "c": 40}


def test_a_kill_leaves_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    for attempt in range(3):
        running = writer(path, f"run{attempt}", 100_000)
        assert running.stdout is not None
        running.stdout.readline()  # it has begun
        time.sleep(0.05 * attempt)
        os.kill(running.pid, signal.SIGKILL)
        said = running.stdout.read().count(b"\n") + 1
        running.wait()
        running.stdout.close()
        found = sum(one.task == f"run{attempt}" for one in Ledger(path).check())
        assert found in (said, said + 1)  # whatever it reported is there, and at most one more
