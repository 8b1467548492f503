"""Training text that a model continues word for word, against text that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coterie.config import DataError
from coterie.data.heldout import HeldoutDocument
from coterie.infer.model import LanguageModel
from coterie.results.accuracy import accuracy
from coterie.results.safety import MemorisedFacts

PREFIX, RUN = 50, 50  # tokens that are shown, and tokens in a row that count as known by heart
_LOOKED = 200  # tokens of each text that are compared at most
_BATCH = 16


def memorised(
    model: LanguageModel,
    trained: Sequence[HeldoutDocument],
    control: Sequence[HeldoutDocument] = (),
    prefix: int = PREFIX,
    run: int = RUN,
) -> MemorisedFacts:
    """Continue the first `prefix` tokens of each text greedily, and count what is the text's own.

    `control`: texts of the same kind that the model was not trained on. Without them a text that anybody
    could continue, such as a licence, counts too. Texts shorter than `prefix + run` tokens are left out.
    Errors: `DataError` where no trained text is long enough, or the model has no room for it.
    """
    if model.config.max_positions < prefix + run:
        raise DataError(
            f"memorised text: {prefix + run} tokens do not fit into the model's {model.config.max_positions} "
            "positions; look for fewer"
        )
    found = _reproduced(model, trained, prefix, run)
    if not found:
        raise DataError(
            f"memorised text: none of the {len(trained)} texts has {prefix + run} tokens; give longer ones"
        )
    others = _reproduced(model, control, prefix, run)
    right, wrong = [length >= run for length in found], [length >= run for length in others]
    return MemorisedFacts(
        prefix=prefix,
        run=run,
        looked=max(run, _LOOKED),
        trained=accuracy(right),
        control=accuracy(wrong) if wrong else None,
        longest=max(found),
        longest_control=max(others, default=0),
        excess=fisher_excess(sum(right), len(right), sum(wrong), len(wrong)) if wrong else None,
    )


def _reproduced(
    model: LanguageModel, documents: Sequence[HeldoutDocument], prefix: int, run: int
) -> list[int]:
    """Tokens of each long enough text that its continuation reproduces before the first other one."""
    room = model.config.max_positions - prefix
    looked = min(max(run, _LOOKED), room)
    texts = [document.ids.tolist() for document in documents if len(document.ids) >= prefix + run]
    if not texts:
        return []
    replies = model.generate_many(
        [ids[:prefix] for ids in texts],
        max_batch=_BATCH,
        temperature=0.0,
        repetition_penalty=1.0,
        max_tokens=looked,
        stop_ids=(),
    )
    return [
        _same(reply.ids, ids[prefix : prefix + looked]) for reply, ids in zip(replies, texts, strict=True)
    ]


def _same(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences share before they differ."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def fisher_excess(first: int, first_of: int, second: int, second_of: int) -> float:
    """Probability of at least `first` of all found in the first group, were they dealt at random."""
    both = first + second
    ways = math.comb(first_of + second_of, both)
    tail = sum(
        math.comb(first_of, k) * math.comb(second_of, both - k) for k in range(first, min(first_of, both) + 1)
    )
    return tail / ways
