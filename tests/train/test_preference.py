"""Preference objectives against the formulas worked out by hand, finite differences, and other packings of
the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config import TrainingError
from coterie.config.run import OptimiserConfig
from coterie.data.rows import Judged, Row
from coterie.nn.transformer import Transformer
from coterie.train import Trainer, build_optimiser, collate, cross_entropy
from coterie.train.batch import Batch
from coterie.train.objectives import Objective
from coterie.train.preference import KTO, dpo, orpo, segment_sums, with_reference
from tests.train.support import VOCAB, Keep, tiny_model

PAIRS = 8
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "dpo": lambda: dpo(0.3),
    "ipo": lambda: dpo(0.2, "ipo", normalise=True),
    "dpo-norm": lambda: dpo(1.5, normalise=True),
    "orpo": lambda: orpo(0.7),
    "kto": lambda: KTO(0.4, 1.0, 1.3),
}


def pair(number: int) -> tuple[list[np.ndarray], list[np.ndarray], Judged]:
    """Two segments of one preference: tokens, what is learnt of them (not their beginning), and the mark."""
    rng = np.random.default_rng(number)
    tokens = [rng.integers(0, VOCAB, int(rng.integers(5, 9))).astype(np.int32) for _ in range(2)]
    learnt = [np.arange(len(ids) - 1) >= 2 for ids in tokens]
    reference = (float(-rng.random() * 8 - 4), float(-rng.random() * 8 - 4))
    return tokens, learnt, Judged(2, bool(number % 3), 0.2 * (number % 2), reference)


def row_of(numbers: list[int], padding: int = 0) -> Row:
    pairs = [pair(number) for number in numbers]
    tokens, learnt = ([part for one in pairs for part in one[which]] for which in (0, 1))
    lengths = [len(ids) - 1 for ids in tokens]
    fill = np.zeros(padding, dtype=np.int32)
    return Row(
        np.concatenate([*(ids[:-1] for ids in tokens), fill]),
        np.concatenate([*(ids[1:] for ids in tokens), fill]),
        np.concatenate([*learnt, fill]).astype(np.float32),
        (*lengths, padding) if padding else tuple(lengths),
        padding,
        tuple(mark for *_, mark in pairs),
    )


def scores(batch: Batch, seed: int = 0) -> Tensor:
    """Some log-probability for every token."""
    return -torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(seed)) * 2 - 0.1


def by_hand(name: str, logp_T: Tensor, batch: Batch, baseline: float = 0.0) -> float:
    """The sum over the pairs of a batch, in plain Python."""
    ends = np.cumsum(batch.context.lengths)
    parts = [slice(int(end - n), int(end)) for end, n in zip(ends, batch.context.lengths, strict=True)]
    learnt = [[p.item() for p, w in zip(logp_T[s], batch.weights_T[s], strict=True) if w] for s in parts]
    total = 0.0
    for at, mark in batch.judged:
        (c, j), (rc, rj) = (sum(learnt[at]), sum(learnt[at + 1])), mark.reference
        nc, nj = len(learnt[at]), len(learnt[at + 1])
        if name == "dpo":
            total += math.log(1 + math.exp(-(0.3 * ((c - rc) - (j - rj)) - mark.margin)))
        elif name == "ipo":
            total += ((c - rc) / nc - (j - rj) / nj - 1 / (2 * 0.2)) ** 2
        elif name == "dpo-norm":
            total += math.log(1 + math.exp(-(1.5 * ((c - rc) / nc - (j - rj) / nj) - mark.margin)))
        elif name == "orpo":
            pc, pj = math.exp(c / nc), math.exp(j / nj)
            odds = math.log(pc / (1 - pc)) - math.log(pj / (1 - pj))
            total += -c / nc + 0.7 * math.log(1 + math.exp(-odds))
        else:
            h = 0.4 * ((c - rc) - baseline)
            total += 1 - 1 / (1 + math.exp(-h)) if mark.wanted else 1.3 * (1 - 1 / (1 + math.exp(h)))
    return total


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_are_the_formulas_and_gradients_their_differences(name: str) -> None:
    batch = collate([row_of([0, 1, 2], padding=4), row_of([3, 4])])
    logp_T = scores(batch).double().requires_grad_()
    objective = OBJECTIVES[name]()
    baseline = 0.0
    if isinstance(objective, KTO):
        objective.baseline = baseline = 0.6
    total, _ = objective(logp_T.float(), batch)
    assert float(total) == pytest.approx(by_hand(name, logp_T.detach(), batch, baseline), rel=1e-5)
    total.backward()
    assert logp_T.grad is not None
    for token in range(0, batch.num_tokens, 3):
        moved = torch.zeros_like(logp_T)
        moved[token] = 1e-4
        up, down = (by_hand(name, logp_T.detach() + sign * moved, batch, baseline) for sign in (1, -1))
        assert float(logp_T.grad[token]) == pytest.approx((up - down) / 2e-4, abs=1e-4)
    assert (logp_T.grad[batch.weights_T == 0] == 0).all()


def test_kto_counts_from_what_strangers_gained_in_the_step_before() -> None:
    objective = KTO()
    batch = collate([row_of([0, 1, 2])])
    logp_T = scores(batch)
    objective(logp_T, batch)
    sums_N, _ = segment_sums(logp_T, batch)
    gains = [float(sums_N[at + 1]) - mark.reference[1] for at, mark in batch.judged]
    assert objective.baseline == 0.0
    objective.after_step(None)  # type: ignore[arg-type]
    assert objective.baseline == pytest.approx(max(0.0, sum(gains) / 3))
    other = KTO()
    other.load_state_dict(objective.state_dict())
    assert other.baseline == objective.baseline


def batches(groups: list[list[list[int]]], padding: int) -> Callable[[int], Iterator[list[Row]]]:
    """The micro-batches of every step; each inner list is a row."""

    def read(start: int) -> Iterator[list[Row]]:
        while True:
            for rows in groups:
                yield [row_of(numbers, padding) for numbers in rows]

    return read


def trained(
    name: str, groups: list[list[list[int]]], accumulate: int, padding: int = 0
) -> tuple[Transformer, Keep]:
    model, keep = tiny_model(3), Keep()
    objective = OBJECTIVES[name]()
    trainer = Trainer(
        model,
        batches(groups, padding),
        objective,
        build_optimiser(model, OptimiserConfig(lr=0.01)),
        lambda step: 1.0,
        [keep, *([objective] if isinstance(objective, KTO) else [])],
        steps=3,
        lr=0.01,
        accumulate=accumulate,
    )
    trainer.run()
    return model, keep


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packing_padding_and_accumulation_change_nothing(name: str) -> None:
    whole, kept = trained(name, [[[0, 1, 2, 3], [4, 5, 6, 7]]], 1)
    for groups, accumulate, padding in (
        ([[[number]] for number in range(PAIRS)], 8, 0),
        ([[[0, 1, 2], [3]], [[4], [5, 6, 7]]], 2, 5),
    ):
        other, keep = trained(name, groups, accumulate, padding)
        assert keep.losses == pytest.approx(kept.losses, rel=1e-5)
        for (key, expected), (_, found) in zip(
            whole.named_parameters(), other.named_parameters(), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5, msg=key)
    for key in (k for k in kept.records[0] if k.startswith(("reward", "preferred", "baseline"))):
        assert keep.records[-1][key] == pytest.approx(kept.records[-1][key], rel=1e-3, abs=1e-5)


def test_reference_is_what_the_model_says_of_each_segment_alone() -> None:
    model = tiny_model(5)
    rows = with_reference(model, [row_of([0, 1], padding=3), row_of([2])], "cpu")
    for row, numbers in zip(rows, ([0, 1], [2]), strict=True):
        for mark, number in zip(row.judged, numbers, strict=True):
            tokens, learnt, given = pair(number)
            assert mark.wanted == given.wanted and mark.margin == given.margin
            for ids, chosen, found in zip(tokens, learnt, mark.reference, strict=True):
                one = Row(ids[:-1], ids[1:], chosen.astype(np.float32), (len(ids) - 1,))
                batch = collate([one])
                with torch.no_grad():
                    logits_TV = model.logits(model(batch.ids_T, batch.context)).log_softmax(-1)
                picked = logits_TV[torch.arange(len(ids) - 1), batch.targets_T]
                assert found == pytest.approx(float((picked * batch.weights_T).sum()), abs=1e-4)


def test_at_the_reference_dpo_is_log_two_and_learning_prefers_the_chosen() -> None:
    model, keep = tiny_model(1), Keep()
    rows = with_reference(model, [row_of([n]) for n in range(PAIRS)], "cpu")
    rows = [replace(row, judged=tuple(replace(m, margin=0.0) for m in row.judged)) for row in rows]
    trainer = Trainer(
        model,
        lambda start: iter(lambda: rows, None),
        dpo(0.5),
        build_optimiser(model, OptimiserConfig(lr=0.01)),
        lambda step: 1.0,
        [keep],
        steps=12,
        lr=0.01,
    )
    trainer.run()
    assert keep.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert keep.losses[-1] < 0.35 and keep.records[-1]["preferred"] == 1.0


def test_rows_of_another_kind_are_refused_in_one_line() -> None:
    plain = replace(row_of([0]), judged=())
    with pytest.raises(TrainingError, match="a row holds none"):
        dpo()(scores(collate([plain])), collate([plain]))
    unknown = replace(row_of([0]), judged=(Judged(2),))
    with pytest.raises(TrainingError, match="reference"):
        dpo()(scores(collate([unknown])), collate([unknown]))
    orpo()(scores(collate([unknown])), collate([unknown]))  # needs none
    assert float(cross_entropy(scores(collate([plain])), collate([plain]))[0]) > 0
