"""A sampler whose model writes what a test wants, token by token; the log-probabilities are the model's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from coterie.infer.request import RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.reinforce.rollouts import Sampler
from coterie.tasks.problem import TaskFamily
from coterie.tasks.tool_chains import ToolChains
from tests.infer.models import tiny_model
from tests.text.calling import tokenizer_of

# What the model writes: from the number of its reply and the last result to the text of the reply.
Script = Callable[[int, str], str]


@dataclass
class Forced:
    """A filter that allows the next token of a script alone."""

    ids: list[int]
    vocab_size: int
    failure: str | None = None
    at: int = 0

    def allowed(self) -> Tensor:
        """The next token, and nothing once there is none."""
        mask_V = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask_V[self.ids[self.at]] = True
        return mask_V

    def accept(self, token: int) -> None:
        """Go on."""
        self.at += 1


@dataclass
class ForcedSampler(Sampler):
    """Every conversation follows `script`, in tokens as no tokenizer would cut it.

    `forced`: what was written, in the order in which it was asked for; `prompts`: before each of them.
    """

    script: Script = lambda number, last: ""
    forced: list[list[int]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        add = self._engine.add

        def forced(ids: Iterable[int], params: SamplingParams, options: RequestOptions) -> int:
            prompt = list(ids)
            number, last = self.place(prompt)
            written = self.write(self.script(number, last))
            self.prompts.append(prompt)
            self.forced.append(written)
            filter = Forced(written, self.model.config.vocab_size)
            return add(prompt, params, replace(options, filter=filter))

        self._engine.add = forced  # type: ignore[method-assign]

    def place(self, prompt: Sequence[int]) -> tuple[int, str]:
        """How many replies a prompt holds, and what stands after the last of them."""
        whole = [
            number for number, ids in enumerate(self.forced) if _holds(prompt, ids, self.prompts[number])
        ]
        if not whole:
            return 0, ""
        last = max(whole, key=lambda number: len(self.prompts[number]))
        count = len({len(self.prompts[number]) for number in whole})
        after = prompt[len(self.prompts[last]) + len(self.forced[last]) :]
        return count, self.tokenizer.decode(after)

    def write(self, text: str) -> list[int]:
        """Text as tokens, cut at every fifth character whatever is there; marks are tokens."""
        pattern = "|".join(map(re.escape, sorted(self.tokenizer.added_tokens, key=len, reverse=True)))
        ids: list[int] = []
        for piece in re.findall(rf"{pattern}|(?:(?!{pattern}).){{1,5}}", text, re.DOTALL):
            ids += self.tokenizer.encode(piece, allow_special=True)
        return ids


def _holds(prompt: Sequence[int], ids: Sequence[int], before: Sequence[int]) -> bool:
    end = len(before) + len(ids)
    return list(prompt[: len(before)]) == list(before) and list(prompt[len(before) : end]) == list(ids)


def sampler(
    template: str, script: Script, family: TaskFamily | None = None, kind: str = "moe", **settings: Any
) -> ForcedSampler:
    """A sampler on a tiny random model."""
    tokenizer = tokenizer_of(template)
    model = tiny_model(kind, vocab_size=tokenizer.vocab_size, max_positions=4096)
    return ForcedSampler(
        model, tokenizer, family or ToolChains(), **({"max_tokens": 600} | settings), script=script
    )
