"""How often the test sets behind a report were looked at, and what choosing the best look is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coterie.evidence.ledger import Ledger, LedgerEntry
from coterie.results.evaluation import LookFacts
from coterie.results.intervals import Estimate
from coterie.stats.selection import best_of


def look_facts(ledger: Ledger, tensors: str, tasks: Mapping[str, str]) -> LookFacts:
    """The looks at the test and sealed items of `tasks` (name -> digest of its items), for a report.

    `tensors`: root of the weights that the report is about. Every different result counts as one candidate,
    the same weights under another prompt too. A task whose items those weights were not scored on has no
    rank. Errors: `CoterieError` for a ledger that is not whole.
    """
    entries = ledger.check()
    counted = [one for one in entries if one.split != "dev" and tasks.get(one.task) == one.task_items_digest]
    rank: dict[str, int] = {}
    corrected: dict[str, Estimate] = {}
    for task in tasks:
        found = _ranked(ledger, tensors, [one for one in counted if one.task == task])
        if found is not None:
            rank[task], corrected[task] = found
    return LookFacts(
        head=entries[-1].digest if entries else ledger.head(),
        checkpoints=len({one.tensor_digest for one in counted}),
        looks={task: sum(one.task == task for one in counted) for task in tasks},
        rank=rank,
        corrected=corrected,
    )


def _ranked(ledger: Ledger, tensors: str, looks: Sequence[LedgerEntry]) -> tuple[int, Estimate] | None:
    """The rank of the latest look at these weights among all looks, and its score corrected for the choice.

    Items that failed in any of the looks are left out of all.
    """
    own = [one for one in looks if one.tensor_digest == tensors]
    if not own:
        return None
    roots = list(dict.fromkeys(one.score_commitment for one in looks))
    by_root = {one.score_commitment: one for one in looks}
    results = [{one.digest: one for one in ledger.outcomes(by_root[root])} for root in roots]
    shared = [digest for digest in results[0] if all(digest in found for found in results)]
    if not shared:
        return None
    values = np.array([[found[digest].score for digest in shared] for found in results])
    clusters = [results[0][digest].cluster for digest in shared]
    chosen = roots.index(own[-1].score_commitment)
    scores = values.mean(1)
    return 1 + int((scores > scores[chosen]).sum()), best_of(values, clusters, chosen)
