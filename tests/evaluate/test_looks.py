"""What a report says of the looks behind it: how many, and what the best of them is worth."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from coterie.config import CoterieError
from coterie.evaluate.looks import look_facts
from coterie.evidence.canonical import digest_bytes
from coterie.evidence.ledger import START, Ledger, LookOutcome

ITEMS, OTHER, PROMPT = digest_bytes(b"items"), digest_bytes(b"older items"), digest_bytes(b"prompt")


def weights(number: int) -> str:
    return digest_bytes(f"weights {number}".encode())


def outcomes(number: int, count: int = 80, share: float = 0.5) -> list[LookOutcome]:
    rng = random.Random(number)
    return [
        LookOutcome(digest=digest_bytes(bytes([n])), cluster=str(n), score=float(rng.random() < share))
        for n in range(count)
    ]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "looks.jsonl")
    for number in range(12):
        made.record(weights(number), "sums", ITEMS, PROMPT, outcomes(number))
    made.record(weights(3), "sums", ITEMS, digest_bytes(b"other prompt"), outcomes(99))
    made.record(weights(3), "sums", ITEMS, PROMPT, outcomes(3))  # the same look again
    made.record(weights(4), "sums", OTHER, PROMPT, outcomes(5))  # items that the report does not have
    made.record(weights(5), "sums", ITEMS, PROMPT, outcomes(6), "dev")
    made.record(weights(6), "lists", ITEMS, PROMPT, outcomes(7), "sealed")
    return made


def test_looks_checkpoints_and_rank_are_counted(ledger: Ledger) -> None:
    facts = look_facts(ledger, weights(3), {"sums": ITEMS, "lists": ITEMS, "none": OTHER})
    assert facts.looks == {"sums": 14, "lists": 1, "none": 0} and facts.checkpoints == 12
    scores = [sum(one.score for one in outcomes(number)) / 80 for number in (*range(12), 99)]
    assert facts.rank == {"sums": 1 + sum(score > scores[3] for score in scores)}
    assert facts.head == ledger.head() and set(facts.corrected) == {"sums"}


def test_the_best_look_loses_what_it_owes_to_chance(ledger: Ledger) -> None:
    """All weights score one half in truth; the best of twelve shows more, and its interval reaches back."""
    scores = [sum(one.score for one in outcomes(number)) / 80 for number in range(12)]
    best = max(range(12), key=scores.__getitem__)
    facts = look_facts(ledger, weights(best), {"sums": ITEMS})
    found = facts.corrected["sums"]
    assert facts.rank["sums"] <= 2 and scores[best] > 0.55
    assert found.low <= 0.5 <= found.high and found.low < found.value <= scores[best]
    alone = Ledger(ledger.path.with_name("alone.jsonl"))
    alone.record(weights(best), "sums", ITEMS, PROMPT, outcomes(best))
    assert look_facts(alone, weights(best), {"sums": ITEMS}).corrected["sums"].low > found.low


def test_an_empty_or_damaged_ledger(ledger: Ledger) -> None:
    empty = look_facts(Ledger(ledger.path.with_name("none")), weights(0), {"sums": ITEMS})
    assert (empty.head, empty.checkpoints, empty.looks, empty.rank) == (START, 0, {"sums": 0}, {})
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:4] + lines[5:]))
    with pytest.raises(CoterieError, match="line 5 does not continue line 4"):
        look_facts(ledger, weights(0), {"sums": ITEMS})
