"""Preference objectives against formulas worked out by hand, finite differences, and other packings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config import TrainingError
from coterie.config.run import OptimiserConfig
from coterie.data.rows import Row
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.train import CrossEntropy, Trainer, build_optimiser, collate
from coterie.train.batch import Batch
from coterie.train.objective import Objective
from coterie.train.preference import DPO, IPO, KTO, ORPO, NormalisedDPO, sides, with_reference
from tests.arithmetic import approx, assert_close, assert_model_close, largest, tolerance
from tests.train.support import VOCAB, Keep, loss_sums, step_sums, tiny_model

PAIRS = 8
FORMULA = 4  # sums over tokens, differences, a logarithm or square, the sum over pairs
LOGPROB = math.log(VOCAB)  # size of a token's log-probability before learning
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "dpo": lambda: DPO(0.3),
    "ipo": lambda: IPO(0.2),
    "dpo-norm": lambda: NormalisedDPO(1.5),
    "orpo": lambda: ORPO(0.7),
    "kto": lambda: KTO(0.4, 1.0, 1.3),
}


@dataclass(frozen=True)
class Pair:
    """Two segments: their tokens, what is learnt of them (not their beginning), and the reference's words."""

    tokens: list[np.ndarray]
    learnt: list[np.ndarray]
    reference: list[np.ndarray]
    wanted: bool
    margin: float


def pair(number: int) -> Pair:
    rng = np.random.default_rng(number)
    tokens = [rng.integers(0, VOCAB, int(rng.integers(5, 9))).astype(np.int32) for _ in range(2)]
    learnt = [np.arange(len(ids) - 1) >= 2 for ids in tokens]
    reference = [-2 * rng.random(len(ids) - 1).astype(np.float32) - 0.5 for ids in tokens]
    return Pair(tokens, learnt, reference, bool(number % 3), 0.2 * (number % 2))


def row_of(numbers: list[int], padding: int = 0, labelled: bool = False) -> Row:
    pairs = [pair(number) for number in numbers]
    tokens = [ids for one in pairs for ids in one.tokens]
    lengths = [len(ids) - 1 for ids in tokens]
    fill = np.zeros(padding, dtype=np.int32)

    def spread(values: list[float], pad: float = 0.0) -> np.ndarray:
        return np.concatenate([np.repeat(values, lengths), np.full(padding, pad)])

    streams = {"pair": spread([at for at in range(len(pairs)) for _ in range(2)], -1).astype(np.int32)}
    if labelled:
        streams["label"] = spread([label for p in pairs for label in (1.0 if p.wanted else -1.0, 0.0)])
    else:
        streams["side"] = spread([1.0, -1.0] * len(pairs))
        streams["margin"] = spread([p.margin for p in pairs for _ in range(2)])
    streams["reference_logp"] = np.concatenate([*(part for p in pairs for part in p.reference), fill])
    return Row(
        np.concatenate([*(ids[:-1] for ids in tokens), fill]),
        np.concatenate([*(ids[1:] for ids in tokens), fill]),
        np.concatenate([*(part for p in pairs for part in p.learnt), fill]).astype(np.float32),
        (*lengths, padding) if padding else tuple(lengths),
        padding,
        {name: values if name == "pair" else values.astype(np.float32) for name, values in streams.items()},
    )


def scores(batch: Batch, seed: int = 0) -> Tensor:
    """Some log-probability for every token."""
    return -torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(seed)) * 2 - 0.1


def by_hand(name: str, logp_T: Tensor, batch: Batch, numbers: list[int], baseline: float = 0.0) -> float:
    """The sum over the pairs `numbers` of a batch, in plain Python."""
    ends = np.cumsum(batch.context.lengths)
    parts = [slice(int(end - n), int(end)) for end, n in zip(ends, batch.context.lengths, strict=True)]
    parts = [part for part in parts if batch.weights_T[part].any()]  # without padding
    learnt = [[p.item() for p, w in zip(logp_T[s], batch.weights_T[s], strict=True) if w] for s in parts]
    total = 0.0
    for at, number in enumerate(numbers):
        given = pair(number)
        c, j = sum(learnt[2 * at]), sum(learnt[2 * at + 1])
        rc, rj = (float(r[w].sum()) for r, w in zip(given.reference, given.learnt, strict=True))
        nc, nj = len(learnt[2 * at]), len(learnt[2 * at + 1])
        if name == "dpo":
            total += math.log(1 + math.exp(-(0.3 * ((c - rc) - (j - rj)) - given.margin)))
        elif name == "ipo":
            total += ((c - rc) / nc - (j - rj) / nj - 1 / (2 * 0.2)) ** 2
        elif name == "dpo-norm":
            total += math.log(1 + math.exp(-(1.5 * ((c - rc) / nc - (j - rj) / nj) - given.margin)))
        elif name == "orpo":
            pc, pj = math.exp(c / nc), math.exp(j / nj)
            odds = math.log(pc / (1 - pc)) - math.log(pj / (1 - pj))
            total += -c / nc + 0.7 * math.log(1 + math.exp(-odds))
        else:
            h = 0.4 * ((c - rc) - baseline)
            total += 1 - 1 / (1 + math.exp(-h)) if given.wanted else 1.3 * (1 - 1 / (1 + math.exp(h)))
    return total


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_are_the_formulas_and_gradients_their_differences(name: str) -> None:
    numbers, labelled = [0, 1, 2, 3, 4], name == "kto"
    batch = collate([row_of(numbers[:3], padding=4, labelled=labelled), row_of(numbers[3:], 0, labelled)])
    logp_T = scores(batch).double().requires_grad_()
    objective = OBJECTIVES[name]()
    baseline = 0.0
    if isinstance(objective, KTO):
        objective.baseline = baseline = 0.6
    total, _ = objective(logp_T.float(), batch)
    expected = by_hand(name, logp_T.detach(), batch, numbers, baseline)
    assert total.item() == approx(expected, terms=8, depth=FORMULA)
    total.backward()
    assert logp_T.grad is not None
    size = largest(logp_T.grad)
    for token in range(0, batch.num_tokens, 3):
        moved = torch.zeros_like(logp_T)
        moved[token] = 1e-4
        up, down = (by_hand(name, logp_T.detach() + d * moved, batch, numbers, baseline) for d in (1, -1))
        # In float64 this difference errs by the square of its step, 1e-8, and by rounding over step, 1e-11.
        allowed = 1e-8 * max(1.0, size) + tolerance(size, terms=batch.num_tokens, depth=FORMULA)
        assert float(logp_T.grad[token]) == pytest.approx((up - down) / 2e-4, rel=0, abs=allowed)
    assert (logp_T.grad[batch.weights_T == 0] == 0).all()
    assert objective.weight(batch) == len(numbers)


def test_kto_counts_from_what_strangers_gained_in_the_step_before() -> None:
    objective = KTO()
    batch = collate([row_of([0, 1, 2], labelled=True)])
    logp_T = scores(batch)
    objective(logp_T, batch)
    gains = sides(logp_T, batch).other_gain.tolist()
    assert objective.baseline == 0.0
    objective.after_step(Processes())
    assert objective.baseline == pytest.approx(max(0.0, sum(gains) / 3))
    other = KTO()
    other.load_state_dict(objective.state_dict())
    assert other.baseline == objective.baseline


def batches(
    groups: list[list[list[int]]], padding: int, labelled: bool
) -> Callable[[int], Iterator[list[Row]]]:
    """The micro-batches of every step; each inner list is a row."""

    def read(start: int) -> Iterator[list[Row]]:
        while True:
            for rows in groups:
                yield [row_of(numbers, padding, labelled) for numbers in rows]

    return read


def trained(
    name: str, groups: list[list[list[int]]], accumulate: int, padding: int = 0
) -> tuple[Transformer, Keep]:
    model, keep = tiny_model(3), Keep()
    objective = OBJECTIVES[name]()
    trainer = Trainer(
        model,
        batches(groups, padding, name == "kto"),
        objective,
        build_optimiser(model, OptimiserConfig(lr=0.01)),
        lambda step: 1.0,
        [keep],
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
        assert keep.losses == approx(kept.losses, *loss_sums(3))
        for (key, expected), (_, found) in zip(
            whole.named_parameters(), other.named_parameters(), strict=True
        ):
            assert_close(found, expected, *step_sums(3), name=key)
    for key in (k for k in kept.records[0] if k.startswith(("reward", "preferred", "baseline"))):
        assert keep.records[-1][key] == approx(kept.records[-1][key], *loss_sums(3), size=LOGPROB)


def test_reference_is_what_the_model_says_of_each_segment_alone() -> None:
    model = tiny_model(5)
    rows = with_reference(model, [row_of([0, 1], padding=3), row_of([2])])
    for row, numbers in zip(rows, ([0, 1], [2]), strict=True):
        first = 0
        for ids in (ids for number in numbers for ids in pair(number).tokens):
            one = Row(ids[:-1], ids[1:], np.ones(len(ids) - 1, dtype=np.float32), (len(ids) - 1,))
            batch = collate([one])
            with torch.no_grad():
                logits_TV = model.logits(model(batch.ids_T, batch.context)).log_softmax(-1)
            picked = logits_TV[torch.arange(len(ids) - 1), batch.targets_T]
            found = row.streams["reference_logp"][first : first + len(ids) - 1]
            assert_model_close(model.config, torch.from_numpy(found), picked, len(ids) - 1)
            first += len(ids) - 1


def test_at_the_reference_dpo_is_log_two_and_learning_prefers_the_chosen() -> None:
    model, keep = tiny_model(1), Keep()
    rows = with_reference(model, [row_of([n]) for n in range(PAIRS)])
    rows = [replace(row, streams={**row.streams, "margin": row.streams["margin"] * 0}) for row in rows]
    trainer = Trainer(
        model,
        lambda start: iter(lambda: rows, None),
        DPO(0.5),
        build_optimiser(model, OptimiserConfig(lr=0.01)),
        lambda step: 1.0,
        [keep],
        steps=12,
        lr=0.01,
    )
    trainer.run()
    assert keep.losses[0] == approx(math.log(2), *loss_sums(), size=LOGPROB)
    assert keep.losses[-1] < 0.35 and keep.records[-1]["preferred"] == 1.0


def test_a_missing_stream_is_refused_in_one_line() -> None:
    """The message names the objective, the stream and how to get it."""
    whole = row_of([0])

    def batch_with(*names: str) -> Batch:
        return collate([replace(whole, streams={name: whole.streams[name] for name in names})])

    with pytest.raises(TrainingError, match=r"DPO needs the stream 'pair', which the rows lack; give data"):
        DPO().require(batch_with())
    with pytest.raises(TrainingError, match="KTO needs the stream 'label', which the rows lack; give data"):
        KTO().require(batch_with("pair", "side"))
    unknown = batch_with("pair", "side", "margin")
    with pytest.raises(TrainingError, match="'reference_logp', which the rows lack; pass the rows through"):
        DPO().require(unknown)
    ORPO().require(unknown)
    assert float(ORPO()(scores(unknown), unknown)[0]) > 0
    assert float(CrossEntropy()(scores(batch_with()), batch_with())[0]) > 0
