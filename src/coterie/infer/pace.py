"""How much of waiting prompts to read beside replies under way, so that their next tokens are not held up."""

from __future__ import annotations

_LEAST = 32  # tokens: a mixture reads nearly all its experts for these already, fewer would cost the prompt too much
_TIMES_A_REPLY = 2.5  # where a step of replies alone is slow, one with prompts may take so many times as long
_WEIGHT = 0.3  # of the newest measurement


class Pace:
    """Learns what steps cost and says how many prompt tokens the next one may read.

    `max_stall`: seconds that a step with prompts and replies should take at most; 2.5 times a step of replies
    alone where that is more. It is a wish: at least 32 tokens are read, as the prompt's own reader waits too.
    """

    def __init__(self, max_stall: float) -> None:
        self.max_stall = max_stall
        self._replies: float | None = None  # seconds of a step without prompts
        self._token: float | None = None  # seconds for each prompt token beside replies
        self._guessed = True  # from prompts read alone, so far

    def budget(self, most: int) -> int:
        """Prompt tokens, at most `most`, for a step in which others get their next token."""
        if not self._token:
            return most
        replies = self._replies or 0.0
        seconds = max(self.max_stall, _TIMES_A_REPLY * replies) - replies
        return min(most, max(_LEAST, int(seconds / self._token)))

    def note(self, seconds: float, num_prompt: int, num_replies: int) -> None:
        """A step has taken so long for so many prompt tokens and so many replies."""
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
