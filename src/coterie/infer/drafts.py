"""The drafts of one sequence: what they are made from, and how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.config.speculate import Speculate
from coterie.infer.lookup import Lookup, Prediction

_WEIGHT = 0.1  # of the newest token in the share of drafted tokens that were right
# The share of tokens of each kind of draft that are taken to be right before the first one is seen, by the
# least number of equal tokens before it. A client's own prediction counts as the longest.
_FIRST = {2: 0.3, 4: 0.6, 8: 0.8}


@dataclass(eq=False)
class Drafts:
    """What the drafts of one sequence are made from, and how often they were right.

    `right`: the share of drafted tokens that were drawn, by the kind of draft; `seen`: how many there were.
    `proposal`: the newest draft, of which `fed` tokens were fed; `since`: tokens of the sequence then. A
    draft that was not fed shows what one is worth too.
    """

    mode: Speculate
    prediction: Prediction | None = None
    lookup: Lookup = field(default_factory=Lookup)
    right: dict[int, float] = field(default_factory=_FIRST.copy)
    seen: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_FIRST, 0))
    proposal: list[int] = field(default_factory=list)
    kind: int = 0
    since: int = 0
    fed: int = 0

    def propose(self, tokens: Sequence[int], most: int) -> None:
        """Make a draft of up to `most` tokens."""
        self.proposal = [] if self.prediction is None else self.prediction.ahead(most)
        length = max(_FIRST)
        if not self.proposal:
            self.proposal, length = self.lookup(tokens, most)
        self.kind = max((least for least in _FIRST if least <= length), default=min(_FIRST))
        self.since, self.fed = len(tokens), 0

    def follow(self, token: int) -> bool:
        """Go on by a token that was drawn; whether the client predicted it."""
        return self.prediction is not None and self.prediction.follow(token)

    def learn(self, tokens: Sequence[int]) -> int:
        """Compare the draft with what was drawn; how many tokens of those fed were right."""
        right = 0
        for drafted, drawn in zip(self.proposal, tokens[self.since :], strict=False):
            self.seen[self.kind] += 1
            weight = max(_WEIGHT, 1 / (2 + self.seen[self.kind]))  # the first guess soon gives way
            self.right[self.kind] += weight * ((drafted == drawn) - self.right[self.kind])
            if drafted != drawn:
                break
            right += 1
        right, self.proposal, self.fed = min(right, self.fed), [], 0
        return right
