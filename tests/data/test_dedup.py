"""Near-duplicates against exact Jaccard, and shingles against a slow reference."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.dedup import NUM_HASHES, band_width, content_digest, deduplicate, shingle_hashes
from coterie.data.documents import Document
from tests.data.conftest import sentences


def shingles(text: str) -> list[tuple[bytes, ...]]:
    """The definition, slowly."""
    words = re.findall(rb"[0-9a-z\x80-\xff]+|[!-/:-@\[-`{-~]", text.lower().encode())
    return [tuple(words[n : n + 5]) for n in range(max(len(words) - 4, min(len(words), 1)))]


texts = st.lists(st.text(alphabet="ab1é .,\n\t(", max_size=40), min_size=1, max_size=6)


@given(texts=texts)
@settings(max_examples=300, deadline=None)
def test_shingle_hashes_equal_the_slow_reference(texts):
    hashes, offsets = shingle_hashes(texts)
    slow = [shingle for text in texts for shingle in shingles(text)]
    assert np.diff(offsets.astype(np.int64)).tolist() == [len(shingles(text)) for text in texts]
    # Equal shingles have equal hashes and different ones different hashes, wherever in the batch they stand.
    assert len(slow) == len(hashes) and len(set(slow)) == len(set(hashes.tolist())) == len(
        set(zip(slow, hashes, strict=False))
    )


def test_batches_do_not_change_the_hashes(monkeypatch):
    texts = [sentences(seed, 3) for seed in range(30)]
    whole, offsets = shingle_hashes(texts)
    monkeypatch.setattr("coterie.data.dedup._BATCH_BYTES", 500)
    parts, again = shingle_hashes(texts)
    assert np.array_equal(whole, parts) and np.array_equal(offsets, again)


def test_near_duplicates_follow_the_jaccard_of_shingles():
    rng = random.Random(1)
    originals = [sentences(seed, 40) for seed in range(20)]
    light, heavy = [], []
    for text in originals:
        words = text.split(" ")
        few, many = list(words), list(words)
        few[rng.randrange(len(few))] = "changed"
        for at in rng.sample(range(len(many)), 60):
            many[at] = "changed"
        light.append(" ".join(few))
        heavy.append(" ".join(many))
    for changed, low, high in [(light, 0.9, 1), (heavy, 0, 0.55)]:
        for before, after in zip(originals, changed, strict=True):
            a, b = set(shingles(before)), set(shingles(after))
            assert low <= len(a & b) / len(a | b) <= high
    corpus = [Document(text, "s", number=n) for n, text in enumerate([*originals, *light, *heavy])]
    kept, counts = deduplicate(corpus)
    assert counts == {"exact duplicate": 0, "near duplicate": 20}
    assert [document.number for document in kept] == [*range(20), *range(40, 60)]
    assert deduplicate(corpus, near=False)[0] == corpus


def test_exact_duplicates_ignore_white_space_only():
    corpus = [Document(text, "s") for text in ["a b", "a  b\n", "a c", "ab", "A b"]]
    kept, counts = deduplicate(corpus, near=False)
    assert [d.text for d in kept] == ["a b", "a c", "ab", "A b"] and counts == {"exact duplicate": 1}
    assert deduplicate(corpus, exact=False, near=False) == (corpus, {})
    assert deduplicate([]) == ([], {"exact duplicate": 0})


def test_short_sums_are_not_taken_for_each_other():
    corpus = [Document(f"{a}{sign}{b}", "s") for a in range(10) for b in range(10) for sign in "+-*"]
    assert deduplicate(corpus)[1] == {"exact duplicate": 0, "near duplicate": 0}


@given(st.text(), st.text())
def test_digest_is_of_the_words(a, b):
    assert (content_digest(a) == content_digest(b)) == (a.split() == b.split())


@pytest.mark.parametrize(("threshold", "width"), [(0.8, 8), (0.5, 2), (0.95, 16)])
def test_bands_follow_the_threshold(threshold, width):
    assert band_width(threshold) == width
    assert 1 - (1 - threshold**width) ** (NUM_HASHES // width) >= 0.94
