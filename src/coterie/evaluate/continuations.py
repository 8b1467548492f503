"""Log-probabilities of given continuations; the context that several of them share is read once.

T packed tokens, D width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.config import CoterieError
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels.choose import logprob_chunk
from coterie.nn.packed import PASS_TOKENS, groups_of
from coterie.nn.transformer import Transformer

Ids = Sequence[int]


@dataclass(frozen=True)
class Continuations:
    """Continuations of one context, each of at least one token; so has the context."""

    context: Ids
    choices: tuple[Ids, ...]

    def __len__(self) -> int:
        """Tokens that are read for them."""
        return len(self.context) + sum(len(choice) - 1 for choice in self.choices)


@dataclass(frozen=True)
class ContinuationScore:
    """Of one continuation: its tokens' summed log-probabilities, and whether greedy decoding writes it."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def score_continuations(
    model: Transformer, asked: Sequence[Continuations], alone: bool = False
) -> list[list[ContinuationScore]]:
    """The scores of each one's choices, in order.

    What does not fit into the model's positions loses tokens at the left of its context. `alone`: each is
    read in a pass by itself, so that its scores are the same to the last bit whatever else is asked.
    Errors: `CoterieError` for an empty context or choice, and a choice longer than the model's positions.
    """
    model.check_head()
    work = [part for number, one in enumerate(asked) for part in _parts(model, number, one)]
    found: list[list[ContinuationScore | None]] = [[None] * len(one.choices) for one in asked]
    work.sort(key=lambda part: (len(part.asked), part.number))
    for group in groups_of(work, 0 if alone else PASS_TOKENS):
        for part, scores in zip(group, _pass(model, [part.asked for part in group]), strict=True):
            for place, score in zip(part.places, scores, strict=True):
                found[part.number][place] = score
    return [[score for score in scores if score is not None] for scores in found]


@dataclass(frozen=True)
class _Part:
    """A part of what is asked that goes through the model at once, and the choices that it answers."""

    number: int
    places: tuple[int, ...]
    asked: Continuations

    def __len__(self) -> int:
        return len(self.asked)


def _parts(model: Transformer, number: int, one: Continuations) -> Iterator[_Part]:
    """One part; and one more for each choice that its whole context does not fit in front of."""
    most = model.config.max_positions
    if not one.context or not all(one.choices):
        raise CoterieError("score: an empty context or continuation; give each at least one token")
    longest = max(map(len, one.choices), default=0)
    if longest > most:
        raise CoterieError(f"score: a continuation of {longest} tokens; the model has {most} positions")
    # Where rotations depend on the length of the whole sequence, a context has other keys for each choice.
    shares = model.config.rope_switch is None
    fits = [len(one.context) + len(choice) <= most + 1 for choice in one.choices]
    shared = [place for place, here in enumerate(fits) if here and shares]
    if shared:
        yield _Part(number, tuple(shared), _of(one.context, [one.choices[place] for place in shared]))
    for place, choice in enumerate(one.choices):
        if place not in shared:
            yield _Part(number, (place,), _of(one.context[-(most + 1 - len(choice)) :], [choice]))


def _of(context: Ids, choices: Sequence[Ids]) -> Continuations:
    return Continuations(context, tuple(choices))


def _pass(model: Transformer, group: Sequence[Continuations]) -> list[list[ContinuationScore]]:
    """The scores of one group: its contexts in one pass, what follows them in another.

    A single choice is read behind its context at once.
    """
    device = model.embed.weight.device
    first = [[*one.context, *one.choices[0][:-1]] if len(one.choices) == 1 else one.context for one in group]
    shared = [
        number for number, one in enumerate(group) if len(one.choices) > 1 and max(map(len, one.choices)) > 1
    ]
    caches = [SequenceCache(model.config) for _ in group] if shared else None
    ids_T = torch.tensor([token for ids in first for token in ids], device=device)
    h_TD = model(ids_T, ForwardContext.packed([len(ids) for ids in first], device=device), caches)
    ends = [len(one.context) - 1 for one in group]
    rows: list[Tensor] = []
    targets: list[int] = []
    for one, end, h in zip(group, ends, h_TD.split([len(ids) for ids in first]), strict=True):
        if len(one.choices) == 1:
            rows.append(h[end:])
            targets += one.choices[0]
        else:
            rows.append(h[[end] * len(one.choices)])
            targets += [choice[0] for choice in one.choices]
    if caches is not None:
        tails = [(number, c[:-1]) for number in shared for c in group[number].choices if len(c) > 1]
        forks = [caches[number].fork() for number, _ in tails]
        lengths = [len(tail) for _, tail in tails]
        starts = [len(group[number].context) for number, _ in tails]
        ids_T = torch.tensor([token for _, tail in tails for token in tail], device=device)
        rows.append(model(ids_T, ForwardContext.packed(lengths, starts, device=device), forks))
        targets += [token for number in shared for c in group[number].choices for token in c[1:]]
    return _added_up(group, shared, *_at(model, torch.cat(rows), targets))


def _at(model: Transformer, h_TD: Tensor, targets: Sequence[int]) -> tuple[list[float], list[bool]]:
    """The log-probability of each target, and whether it is the most likely token."""
    targets_T = torch.tensor(targets, device=h_TD.device)
    chunk = logprob_chunk(h_TD.device, model.config.vocab_size)
    logprobs, greedy = [], []
    for h_CD, targets_C in zip(h_TD.split(chunk), targets_T.split(chunk), strict=True):
        logits_CV = model.logits(h_CD)
        logprobs += logits_CV.log_softmax(-1).gather(1, targets_C[:, None])[:, 0].tolist()
        greedy += _most_likely(logits_CV, targets_C).tolist()
    return logprobs, greedy


def _most_likely(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Whether each target is the first of the most likely tokens; few are, and only these are looked up."""
    found_C = logits_CV.gather(1, targets_C[:, None])[:, 0] == logits_CV.amax(-1)
    found_C[found_C.clone()] = logits_CV[found_C].argmax(-1) == targets_C[found_C]
    return found_C


def _added_up(
    group: Sequence[Continuations], shared: Sequence[int], logprobs: Sequence[float], greedy: Sequence[bool]
) -> list[list[ContinuationScore]]:
    """Sums over the tokens of each choice: those of the first pass, then those of the second."""
    at = 0
    sums: list[list[ContinuationScore]] = []
    for one in group:
        sizes = [len(one.choices[0])] if len(one.choices) == 1 else [1] * len(one.choices)
        scores = []
        for size in sizes:
            scores.append(ContinuationScore(sum(logprobs[at : at + size]), all(greedy[at : at + size])))
            at += size
        sums.append(scores)
    for number in shared:
        for place, choice in enumerate(group[number].choices):
            end = at + len(choice) - 1
            before = sums[number][place]
            sums[number][place] = ContinuationScore(
                before.logprob + sum(logprobs[at:end]), before.greedy and all(greedy[at:end])
            )
            at = end
    return sums
