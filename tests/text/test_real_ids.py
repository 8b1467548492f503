"""Ids of the real SmolLM2-135M-Instruct are those of transformers: texts, and 2,000 conversations."""

import random

import pytest

from coterie.text import Tokenizer
from coterie.text.tokenizer import CHATML
from tests.real import smollm2
from tests.text.test_ids import COMMON, ODD, compare_talks, compare_text

pytestmark = [pytest.mark.slow, pytest.mark.real]


@pytest.fixture(scope="module")
def both():
    transformers = pytest.importorskip("transformers")
    directory = smollm2()
    return Tokenizer.load(directory), transformers.AutoTokenizer.from_pretrained(directory)


def test_texts(both):
    rng = random.Random(1)
    assert both[0].start_ids == ()
    for _ in range(2000):
        compare_text(
            *both, "".join(rng.choice(COMMON + ODD + ("<|im_end|>",)) for _ in range(rng.randint(0, 12)))
        )


@pytest.mark.parametrize("template", ["its own", "chatml"])
def test_two_thousand_conversations(both, template):
    ours, theirs = both
    own = ours.chat_template, theirs.chat_template
    if template == "chatml":
        ours.chat_template = theirs.chat_template = CHATML.read_text()
    try:
        # Its own template shows neither tools nor their calls; what is learnt of those is refused elsewhere.
        compare_talks(ours, theirs, 2000, f"smollm2 {template}", template == "chatml")
    finally:
        ours.chat_template, theirs.chat_template = own
