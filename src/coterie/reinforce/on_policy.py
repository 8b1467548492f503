"""Where a distillation on policy gets its rows: at each step the student replies, and is corrected on that.

It is the loop's reader of data and one of its callbacks. Replies depend on the seed, the step and the weights
alone; a resumed run samples the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coterie.config.on_policy import OnPolicyConfig
from coterie.data.rows import Row
from coterie.infer.engine import Engine
from coterie.infer.request import Reply
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.primer.base import Rng
from coterie.reinforce.kept import keep_step
from coterie.reinforce.prompts import Prompt, Prompts
from coterie.reinforce.rollouts import MAX_BATCH, sampling_seed
from coterie.text.tokenizer import Tokenizer
from coterie.train.callbacks import Callback
from coterie.train.running import RunningTraining


@dataclass
class Writer:
    """A model that replies to prompts at temperature 1, without any filter."""

    model: Transformer
    tokenizer: Tokenizer
    max_tokens: int

    def __post_init__(self) -> None:
        self._engine = Engine(self.model, self.tokenizer, max_batch=MAX_BATCH)

    def replies(self, prompts: Sequence[Prompt], key: tuple[int, ...], greedy: bool = False) -> list[Reply]:
        """A reply to each. `key`: where in the run they belong; with the number of the prompt it seeds it."""
        params = [
            SamplingParams(
                temperature=0.0 if greedy else 1.0,
                max_tokens=self.max_tokens,
                seed=sampling_seed(*key, number),
            )
            for number in range(len(prompts))
        ]
        training = self.model.training
        self.model.eval()
        try:
            return self._engine.generate(prompts, params)
        finally:
            self.model.train(training)


def reply_row(prompt: Prompt, reply: Reply, learnt: int | None = None) -> Row:
    """A row of a reply, whose tokens are learnt, or the first `learnt` of them.

    Streams: `sample`, and `old_logp`, the log-probability of each token when it was sampled.
    """
    whole = np.asarray((*prompt, *reply.ids), dtype=np.int32)
    count, first = len(whole) - 1, len(prompt) - 1
    weights, old = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    weights[first : None if learnt is None else first + learnt] = 1.0
    old[first:] = reply.logprobs
    streams: Mapping[str, Any] = {"sample": np.zeros(count, dtype=np.int64), "old_logp": old}
    return Row(whole[:-1], whole[1:], weights, (count,), streams=streams)


@dataclass
class ReplySource(Callback):
    """Rows of replies to `config.prompts` prompts a step, `config.group` to each.

    `own`: the share that the student writes. `folder`: where the replies are kept. `budgets`: learnt tokens
    of each step. Where they are given, further prompts are replied to until there are as many, and the last
    reply is learnt in part.
    """

    config: OnPolicyConfig
    prompts: Prompts
    student: Writer
    teacher: Writer
    own: float
    folder: Path
    budgets: Sequence[int] | None = None
    tokens_learnt: int = 0
    _trainer: RunningTraining | None = field(default=None, init=False)

    def on_start(self, trainer: RunningTraining) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {"tokens_learnt": self.tokens_learnt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens_learnt = int(state["tokens_learnt"])

    def batches(self, start: int) -> Iterator[list[Row]]:
        """Micro-batches without end. `start`, the number of rows so far, is not used."""
        while True:
            assert self._trainer is not None, "the source is one of the trainer's callbacks"
            yield from self._step(self._trainer)

    def _step(self, trainer: RunningTraining) -> Iterator[list[Row]]:
        begun, number = time.perf_counter(), trainer.step_count
        budget = None if self.budgets is None else self.budgets[number]
        rows: list[Row] = []
        replies: list[Reply] = []
        kept: list[dict[str, Any]] = []
        tokens, turn = 0, 0
        while not rows or (budget is not None and tokens < budget):
            for prompt, reply, own in self._written(number, turn):
                room = None if budget is None else budget - tokens
                if room == 0:
                    break
                learnt = len(reply.ids)
                if budget is not None and room is not None:  # at least one reply for each micro-batch
                    learnt = min(learnt, room, budget // self.config.accumulate)
                rows.append(reply_row(prompt, reply, learnt))
                replies.append(reply)
                kept.append(self._kept(prompt, reply, own))
                tokens += learnt
            turn += 1
        keep_step(self.folder, number + 1, kept)
        self.tokens_learnt += tokens
        trainer.publish(
            {
                "kind": "rollout",
                "step": number + 1,
                "replies": len(replies),
                "tokens": tokens,
                "tokens_per_reply": sum(len(reply.ids) for reply in replies) / len(replies),
                "truncated": sum(reply.finish_reason != "stop" for reply in replies) / len(replies),
                "seconds": time.perf_counter() - begun,
            }
        )
        pieces = self.config.accumulate
        for piece in range(pieces):
            yield rows[piece * len(rows) // pieces : (piece + 1) * len(rows) // pieces]

    def _kept(self, prompt: Prompt, reply: Reply, own: bool) -> dict[str, Any]:
        return {
            "prompt": self.student.tokenizer.decode(list(prompt)),
            "reply": reply.text,
            "writer": "student" if own else "teacher",
            "ids": reply.ids,
            "tokens": len(prompt) + len(reply.ids) - 1,
        }

    def _written(self, number: int, turn: int) -> list[tuple[Prompt, Reply, bool]]:
        """Prompts with a reply and whether the student wrote it, in an order that mixes the writers."""
        count, group = self.config.prompts, self.config.group
        first = number * count + turn * self.config.steps * count  # prompts of later turns are new ones
        asked = [self.prompts.at(first + at) for at in range(count) for _ in range(group)]
        rng = Rng("on policy", self.config.seed, number, turn)
        own = [rng.chance(self.own) for _ in asked]
        found: list[Reply | None] = [None] * len(asked)
        for writer, mine in ((self.student, True), (self.teacher, False)):
            places = [at for at, is_own in enumerate(own) if is_own == mine]
            written = writer.replies([asked[at] for at in places], (self.config.seed, number, turn, mine))
            for at, reply in zip(places, written, strict=True):
                found[at] = reply
        return [
            (prompt, reply, its)
            for prompt, reply, its in zip(asked, found, own, strict=True)
            if reply is not None
        ]
