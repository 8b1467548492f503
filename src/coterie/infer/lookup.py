"""Drafts by looking up what came before: in the sequence itself, or in a text that the client predicts."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 16  # tokens of a match that are compared
_PLACES = 8  # earlier places that are compared, the latest first


class Lookup:
    """What followed the last tokens of one growing sequence when they came before (arXiv 2304.04487).

    An index of pairs: where each was last, and from there the place before. A new token costs one entry.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = []  # for the pair that ends at each token, the place before; -1: none

    def __call__(self, tokens: Sequence[int], most: int) -> tuple[list[int], int]:
        """`most` tokens that may follow, and how many tokens before them are the same; ([], 0): no match.

        `tokens`: those of the last call and perhaps more.
        """
        self._extend(tokens)
        end = len(tokens) - 1
        best, longest = -1, 0
        place = self._earlier[end] if end >= 0 else -1
        for _ in range(_PLACES):
            if place < 0 or longest == _LONGEST:
                break
            length = 2
            while length < min(_LONGEST, place + 1) and tokens[place - length] == tokens[end - length]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._earlier[place]
        if best < 0:
            return [], 0
        period = end - best  # of a text that repeats itself, the draft goes on after the end
        return [tokens[best + 1 + i % period] for i in range(most)], longest

    def _extend(self, tokens: Sequence[int]) -> None:
        for end in range(len(self._earlier), len(tokens)):
            pair = (tokens[end - 1], tokens[end]) if end else (-1, tokens[end])
            self._earlier.append(self._last.get(pair, -1))
            self._last[pair] = end


class Prediction:
    """A text that the client expects, followed along a reply.

    It starts at its first token. Where the reply leaves it, it goes on after the next two equal tokens, at
    the first such place that is not behind, else at the last one. `num_accepted`: tokens of the reply that
    were the predicted ones.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.num_accepted = 0
        self._next: int | None = 0
        self._reached = 0
        self._before: int | None = None  # the last token of the reply
        self._places: dict[tuple[int, int], list[int]] = {}
        for at, pair in enumerate(zip(self.tokens, self.tokens[1:], strict=False)):
            self._places.setdefault(pair, []).append(at + 2)

    @property
    def num_rejected(self) -> int:
        """Predicted tokens that are not in the reply."""
        return len(self.tokens) - min(len(self.tokens), self.num_accepted)

    def ahead(self, most: int) -> list[int]:
        """Up to `most` tokens that the text has next."""
        return [] if self._next is None else self.tokens[self._next : self._next + most]

    def follow(self, token: int) -> bool:
        """Go on by a token of the reply; whether it was the predicted one."""
        right = self.ahead(1) == [token]
        if right and self._next is not None:
            self.num_accepted += 1
            self._next += 1
        else:
            places = () if self._before is None else self._places.get((self._before, token), ())
            following = [place for place in places if place > self._reached]
            self._next = following[0] if following else places[-1] if places else None
        if self._next is not None:
            self._reached = self._next
        self._before = token
        return right
