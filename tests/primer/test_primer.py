"""The corpus as a whole: same for ever, in its shares, few duplicates, clear errors."""

import hashlib
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import primer
from coterie.config.errors import DataError
from coterie.primer.base import Rng, held_out

GENERATED = ("stories", "arithmetic", "functions", "programs", "dialogues")
# SHA-256 of documents (seed, index) = (0, 0), (0, 1), (7, 12345) joined. A new value here is a new
# primer.VERSION.
GOLDEN = {
    "stories": "76b1f173601e355e",
    "arithmetic": "8b81bf72424cdb4d",
    "functions": "e1fbfb1aa15ec9b9",
    "programs": "36abde3b3641e3a6",
    "dialogues": "8fa8131566a8f388",
    "probes": "7ff8623393cf4c73",
}


def _digest(slice: str) -> str:
    texts = [primer.generate(slice, seed, index).text for seed, index in ((0, 0), (0, 1), (7, 12345))]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


@pytest.mark.parametrize("slice", GENERATED)
def test_documents_never_change(slice):
    assert _digest(slice) == GOLDEN[slice]


def test_probes_never_change():
    text = "".join(prompt + answer for slice in ("arithmetic", "functions", "stories")
                   for prompt, answer in primer.qa_probes(slice, 3, 20))  # fmt: skip
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN["probes"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(GENERATED), st.integers(0, 2**40), st.integers(0, 2**40))
def test_any_index_is_a_document(slice, seed, index):
    document = primer.generate(slice, seed, index)
    assert document == primer.generate(slice, seed, index)
    assert document.slice == slice and document.text.strip() and document.text.endswith("\n")
    assert document.text.isascii()
    assert document.text != primer.generate(slice, seed, index + 1).text
    assert document.text != primer.generate(slice, seed + 1, index).text


@pytest.mark.parametrize("slice", GENERATED)
def test_few_exact_duplicates(slice):
    texts = [primer.generate(slice, 0, index).text for index in range(2000)]
    assert len(texts) - len(set(texts)) < 20


@pytest.mark.parametrize("slice", GENERATED)
def test_few_near_duplicates(slice):
    """Documents that share more than 80 % of the five-word windows of another of 300 are under 2 %."""
    windows = []
    for index in range(300):
        words = primer.generate(slice, 1, index).text.split()
        windows.append({tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))})
    near = sum(
        any(len(mine & other) > 0.8 * min(len(mine), len(other)) for other in windows[:number])
        for number, mine in enumerate(windows)
    )
    assert near < 6


def test_shares_hold_along_the_way():
    num_bytes = 900_000
    written = Counter()
    seen = set()
    for document in primer.documents(3, num_bytes):
        written[document.slice] += len(document.text.encode())
        assert document.name not in seen
        seen.add(document.name)
        if written.total() > 400_000:
            for slice, share in primer.SLICES.items():
                assert abs(written[slice] - share * written.total()) < 40_000, slice
    assert sum(primer.SLICES.values()) == pytest.approx(1)
    for slice, share in primer.SLICES.items():
        assert share * num_bytes <= written[slice] < share * num_bytes + 25_000


def test_order_is_fixed_by_the_seed():
    first = list(islice(primer.documents(5), 60))
    assert first == list(islice(primer.documents(5), 60))
    assert [d.name for d in first if d.slice == "code"] != [
        d.name for d in islice(primer.documents(6), 60) if d.slice == "code"
    ]
    # A smaller corpus is the beginning of a larger one.
    small = list(primer.documents(5, 60_000))
    assert small[:20] == first[:20]


def test_errors_are_one_clear_line():
    for wrong in (
        lambda: primer.generate("code", 0, 0),
        lambda: primer.generate("storys", 0, 0),
        lambda: primer.generate("stories", 0, -1),
        lambda: primer.qa_probes("programs", 0, 3),
        lambda: next(primer.documents(0, 0)),
    ):
        with pytest.raises(DataError, match=r"^primer: [^\n]+$"):
            wrong()


def test_choices_are_even():
    rng = Rng("test", 1)
    seen = Counter(rng.between(-2, 3) for _ in range(6000))
    assert sorted(seen) == [-2, -1, 0, 1, 2, 3] and min(seen.values()) > 850
    orders = Counter(tuple(rng.shuffled("abc")) for _ in range(6000))
    assert len(orders) == 6 and min(orders.values()) > 850
    assert sum(rng.chance(0.3) for _ in range(6000)) == pytest.approx(1800, abs=150)
    picks = rng.sample(range(50), 20)
    assert len(set(picks)) == 20


def test_one_in_sixteen_is_held_out():
    assert sum(held_out(f"problem {number}") for number in range(8000)) == pytest.approx(500, abs=80)
