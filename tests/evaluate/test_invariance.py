"""The same bits at every composition; results that depend on the batch, and dropped tokens, are found."""

from __future__ import annotations

import pytest
import torch

from coterie.benchmarks.item import Benchmark
from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.invariance import compositions, is_invariant, measure_invariance
from coterie.evaluate.local_subject import LocalSubject
from coterie.nn.router import Router
from tests.evaluate.items import Choices, Letters, identity_of, model_of

OPTIONS = ReplyOptions(max_tokens=8, effort="none")


def subject(exact: bool = True, kind: str = "moe") -> LocalSubject:
    return LocalSubject(model_of(kind=kind), "tiny", exact, identity=identity_of("t"))


@pytest.mark.parametrize("kind", ["moe", "dense"])
@pytest.mark.parametrize("benchmark", [Letters(), Choices()])
def test_exact_scoring_has_the_same_bits(kind: str, benchmark: Benchmark) -> None:
    facts = measure_invariance(subject(kind=kind), benchmark, OPTIONS, items=8)
    assert facts.compositions == 7 and facts.items == 8 and is_invariant(facts)
    assert facts.max_abs_dlogprob == facts.flip_rate == facts.span == facts.dropped_tokens == 0


def test_packed_passes_differ_by_rounding_alone() -> None:
    facts = measure_invariance(subject(exact=False), Choices(), OPTIONS, items=8)
    assert facts.max_abs_dlogprob < 1e-3 and facts.dropped_tokens == 0


def test_a_limit_on_experts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that take only so many tokens of a pass drop the later ones: scores depend on company."""
    inner = Router.forward

    def limited(self, *given, **named):  # type: ignore[no-untyped-def]
        routing = inner(self, *given, **named)
        weights_TK = routing.weights_TK.clone()
        for expert in range(self.config.num_experts):
            chosen = (routing.ids_TK == expert).nonzero()
            for token, place in chosen[24:].tolist():
                weights_TK[token, place] = 0
        return routing._replace(weights_TK=weights_TK)

    monkeypatch.setattr(Router, "forward", limited)
    facts = measure_invariance(subject(exact=False), Choices(), OPTIONS, items=8)
    assert facts.dropped_tokens > 0 and facts.max_abs_dlogprob > 1e-2 and not is_invariant(facts)


def test_a_batch_dependent_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that grows with the rows of a pass, far below what changes an answer."""
    asked = subject(exact=False)
    inner = asked.model.model.forward

    def noisy(ids_T: torch.Tensor, *rest: object) -> torch.Tensor:
        return inner(ids_T, *rest) * (1 + 1e-4 * len(ids_T))

    monkeypatch.setattr(asked.model.model, "forward", noisy)
    facts = measure_invariance(asked, Choices(), OPTIONS, items=8)
    assert facts.max_abs_dlogprob > 1e-4 and not is_invariant(facts)


def test_neighbours_are_long_or_the_same() -> None:
    items = Letters(4).items()
    *_, long, copies = compositions(items, subject(), OPTIONS)
    for item, (first, second) in zip(items, long, strict=True):
        assert first is item and len(second.question) > 3 * len(item.question)
    assert all({one.question for one in batch} == {batch[0].question} and len(batch) == 4 for batch in copies)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="fits"):
        measure_invariance(subject(), Letters(2, long=[0, 1]), OPTIONS)
