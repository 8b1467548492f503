"""Small corpora and tokenizers shared by the data tests."""

import random

import pytest

from coterie.data.documents import Document
from coterie.text import Tokenizer

WORDS = (
    "tree house river stone light walk green quiet under seven paper bird cloud train morning letter".split()
)


def sentences(seed: int, count: int) -> str:
    """Random text of `count` sentences, different for every seed."""
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=9)) + f" {rng.randrange(10**6)}." for _ in range(count))


def documents(count: int, seed: int = 0, slices: int = 2) -> list[Document]:
    """Different documents of 1 to 6 sentences over a few slices."""
    return [
        Document(sentences(seed * 10_000 + n, 1 + n % 6), f"file{n}", f"slice{n % slices}", n)
        for n in range(count)
    ]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([sentences(seed, 5) for seed in range(20)], 320)
