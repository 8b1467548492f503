"""How many threads a step takes: what was faster lately, since other work on the machine decides that."""

from __future__ import annotations

import torch

from coterie.jit.openmp import thread_functions

_TRIED = 3  # steps of each number of threads before one is preferred
_AGAIN = 32  # steps until the other one is tried again
_WEIGHT = 0.3  # of the newest step in the mean


class StepThreads:
    """One thread or all of torch's, by the time of steps of the same number of tokens.

    The choice never changes a result: each number of a step is the same sum whoever computes it.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}
        self._steps: dict[tuple[int, int], int] = {}

    def choose(self, num_tokens: int) -> int:
        """The number of threads of the next step."""
        most = torch.get_num_threads()
        if most == 1 or thread_functions() is None:
            return 1
        alone, together = (1, num_tokens), (most, num_tokens)
        for key in (together, alone):
            if self._steps.get(key, 0) < _TRIED:
                return key[0]
        better, other = sorted((together, alone), key=self._seconds.__getitem__)
        return (other if (self._steps[together] + self._steps[alone]) % _AGAIN == 0 else better)[0]

    def note(self, threads: int, num_tokens: int, seconds: float) -> None:
        """How long a step took."""
        key = threads, num_tokens
        count = self._steps.get(key, 0)
        # The first step of each kind finds nothing in the processor's caches.
        before = self._seconds[key] if count > 1 else seconds
        self._seconds[key] = before + _WEIGHT * (seconds - before)
        self._steps[key] = count + 1
