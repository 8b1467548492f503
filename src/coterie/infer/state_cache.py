"""The state that one layer keeps of one sequence, and copies of it at earlier lengths."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.config import CoterieError

BORDER = 16  # tokens: where prompts are shared (`infer.prefix`)


@dataclass
class SequenceLength:
    """How many tokens of a sequence have been seen, shared by its layers.

    It is a separate object so that layers do not refer back to their sequence: buffers in a reference cycle
    would stay alive until Python's cyclic collector runs, in a large process after a thousand requests.
    """

    length: int = 0


class StateCache:
    """The states of one layer by the number of tokens before them.

    A pass reads the state at the sequence's length and hands in the next one; `settle` takes it over once the
    pass has been through all layers. Until then, and after a pass that was interrupted, the old state counts.
    Such a pass writes to no state. A native step turns the state into the next one in place (`turn`), which
    saves a copy; where it is interrupted, the state is lost, and the sequence cannot go on.
    """

    def __init__(self, seen: SequenceLength) -> None:
        self._seen = seen
        self._states: dict[int, tuple[Tensor, ...]] = {}
        self._next: tuple[Tensor, ...] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all states, copies at earlier lengths included."""
        kept = [*self._states.values(), *([self._next] if self._next is not None else [])]
        return sum(tensor.nbytes for state in kept for tensor in state)

    def read(self) -> tuple[Tensor, ...] | None:
        """The state after all counted tokens; None before the first."""
        self._next = None  # of a pass that was interrupted
        if self._seen.length and not self.can_go_back(self._seen.length):
            raise CoterieError(
                f"cache: a step was interrupted after {self._seen.length} tokens; run the prompt again"
            )
        return self._states[self._seen.length] if self._seen.length else None

    def write(self, state: tuple[Tensor, ...]) -> None:
        """The state after the tokens of this pass. What shares memory with more than itself is copied."""
        self._next = tuple(
            part if part.untyped_storage().nbytes() == part.nbytes else part.clone() for part in state
        )

    def turn(self, like: Sequence[Tensor], keep: bool) -> list[int]:
        """The addresses of the state, which the caller turns into that after one more token.

        Zeros of the shapes and dtypes of `like` before the first token. `keep`: the state is needed as it is
        too, so a copy is turned.
        """
        state = self.read()
        if state is None:
            self._next = tuple(torch.zeros_like(part) for part in like)
        else:
            assert [part.shape for part in state] == [part.shape for part in like], "states of another form"
            self._next = tuple(
                part.clone(memory_format=torch.contiguous_format) if keep else part.contiguous()
                for part in state
            )
            if not keep:
                del self._states[self._seen.length]
        return [part.data_ptr() for part in self._next]

    def settle(self, keep: Collection[int]) -> None:
        """Take over the state of a pass whose tokens are counted now; of the others `keep` these lengths."""
        assert self._next is not None, "a layer with a state took no part in the pass"
        self._states = {at: state for at, state in self._states.items() if at in keep}
        self._states[self._seen.length] = self._next
        self._next = None

    def can_go_back(self, length: int) -> bool:
        """Whether the state at `length` is known."""
        return length == 0 or length in self._states

    def truncate(self, length: int) -> None:
        """Forget the states after `length`. Errors: `CoterieError` where its own is not kept."""
        if not self.can_go_back(length):
            raise CoterieError(f"cache: the state at length {length} was not kept; run the prompt again")
        self._next = None
        self._states = {at: state for at, state in self._states.items() if at <= length}

    def copy_from(self, other: StateCache, length: int) -> None:
        """Copy the state of `other` at `length`."""
        self._states = {length: tuple(part.clone() for part in other._states[length])} if length else {}


def landmark(length: int) -> int:
    """The first of 64, 128, 256 ... beyond `length`: what two prompts share reaches past half of the way."""
    return max(4 * BORDER, 1 << length.bit_length())


def least_needed(lengths: Sequence[int]) -> int:
    """The index of the length, except the last, whose neighbours (0 before the first) are closest."""
    before = (0, *lengths)
    return min(range(len(lengths) - 1), key=lambda i: (lengths[i + 1] - before[i], -i))
