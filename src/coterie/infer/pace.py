"""How many prompt tokens to read in one step, so that running replies get their next token in time."""

from __future__ import annotations

# 32 tokens already read nearly all experts of a mixture, so fewer would slow the prompt without a gain.
_LEAST = 32
_TIMES_A_REPLY = 2.5  # a step with prompts may take this many times as long as one of replies alone
_WEIGHT = 0.3  # weight of the newest measurement in the running means


class Pace:
    """Measures what steps cost and limits how many prompt tokens the next step reads.

    `max_stall`: target for the longest step with prompts and replies, in seconds, or 2.5 times a step of
    replies alone if that is longer. The target may be missed: at least 32 tokens are always read, because the
    client of that prompt waits too.
    """

    def __init__(self, max_stall: float) -> None:
        self.max_stall = max_stall
        self._replies: float | None = None  # seconds of a step without prompts
        self._token: float | None = None  # seconds for each prompt token in a step with replies
        self._guessed = True  # `_token` comes from steps without replies so far

    def budget(self, most: int) -> int:
        """Prompt tokens, at most `most`, for a step in which running replies get their next token."""
        if not self._token:
            return most
        replies = self._replies or 0.0
        seconds = max(self.max_stall, _TIMES_A_REPLY * replies) - replies
        return min(most, max(_LEAST, int(seconds / self._token)))

    def note(self, seconds: float, num_prompt: int, num_replies: int) -> None:
        """Learn from a step of `num_prompt` prompt tokens and `num_replies` replies that took `seconds`."""
        if not num_prompt:
            self._replies = _mean(self._replies, seconds)
        elif num_replies:
            cost = max(0.0, seconds - (self._replies or 0.0)) / num_prompt
            self._token = cost if self._guessed else _mean(self._token, cost)
            self._guessed = False
        elif self._guessed:
            self._token = seconds / num_prompt


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
