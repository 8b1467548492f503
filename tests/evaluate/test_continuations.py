"""Continuations that share the reading of their context score as each does alone, in one whole pass."""

from __future__ import annotations

import pytest
import torch

from coterie.config import CoterieError
from coterie.evaluate.continuations import Continuations, score_continuations
from tests.arithmetic import approx_model
from tests.infer.models import KINDS, tiny_model, training_logprobs

POSITIONS = 24


def asked(seed: int = 0) -> list[Continuations]:
    """Contexts of 1 to 30 tokens, with one or several continuations of 1 to 9."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(0, 61, (length,), generator=generator).tolist()

    return [
        Continuations(ids(1, 30), tuple(ids(1, 10) for _ in range(choices)))
        for choices in (1, 4, 2, 1, 3, 4, 1, 2)
    ] + [Continuations(ids(5, 6), tuple([token] for token in ids(4, 5)))]


def slowly(model, one: Continuations) -> list[tuple[float, bool]]:  # type: ignore[no-untyped-def]
    found = []
    for choice in one.choices:
        ids = [*one.context, *choice][-(POSITIONS + 1) :]
        logprobs_TV = training_logprobs(model, ids[:-1])[-len(choice) :]
        at = logprobs_TV.gather(1, torch.tensor(choice)[:, None])
        found.append((float(at.double().sum()), logprobs_TV.argmax(-1).tolist() == list(choice)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_whole_passes(kind: str) -> None:
    model = tiny_model(kind, max_positions=POSITIONS).eval()
    for one, scores in zip(asked(), score_continuations(model, asked()), strict=True):
        expected = slowly(model, one)
        assert [score.greedy for score in scores] == [greedy for _, greedy in expected]
        for score, (logprob, _) in zip(scores, expected, strict=True):
            assert score.logprob == approx_model(model.config, logprob, POSITIONS, size=abs(logprob) + 10)


def test_the_likeliest_tokens_are_greedy() -> None:
    model = tiny_model("moe", max_positions=POSITIONS).eval()
    context, written = [3, 9, 20], []
    for _ in range(4):
        written.append(int(training_logprobs(model, context + written)[-1].argmax()))
    other = [*written[:-1], (written[-1] + 1) % 61]
    (right, wrong, short), (alone,) = score_continuations(
        model, [Continuations(context, (written, other, written[:1])), Continuations(context, (written,))]
    )
    assert right.greedy and short.greedy and alone.greedy and not wrong.greedy
    assert right.logprob > wrong.logprob


@pytest.mark.parametrize("kind", ["dense", "moe", "delta"])
def test_alone_means_equal_bits_whatever_else_is_asked(kind: str) -> None:
    model = tiny_model(kind, max_positions=POSITIONS).eval()
    together = score_continuations(model, asked(), alone=True)
    assert together == [score_continuations(model, [one], alone=True)[0] for one in asked()]


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (Continuations([], ([1],)), "at least one token"),
        (Continuations([1], ([],)), "at least one token"),
        (Continuations([1], ([2] * 25,)), "25 tokens; the model has 24"),
    ],
)
def test_what_cannot_be_scored_is_refused(one: Continuations, says: str) -> None:
    with pytest.raises(CoterieError, match=says):
        score_continuations(tiny_model("dense", max_positions=POSITIONS), [one])
