"""The models of a comparison: here or behind a URL, asked in the same way. What is not known stays None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, Protocol

import numpy as np

from coterie.agents.load_test import Load, measure
from coterie.config.evaluate import EvalConfig
from coterie.data.examples import ExampleSet
from coterie.data.formats import ChatExample, Example, PairExample
from coterie.data.heldout import HeldoutDocument
from coterie.data.tokenised import TokenExample, TokenSequence, pack, tokenise_all
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.routing.compare import routing_report
from coterie.evaluate.served_answers import ServedAnswers
from coterie.evaluate.subject import Subject
from coterie.evaluate.tuning import unit_scores
from coterie.infer.model import LanguageModel
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.plan.counts import count_parameters
from coterie.recipes.evaluate import open_subject
from coterie.remote.client import is_url
from coterie.results.routing import ModelRouting

LONGEST = 2048  # tokens of an example; longer ones are left out for all models
TOKENS = 32  # of each reply when speed is measured
_PROMPT = 64
Key = tuple[str, int]  # of an example: file and line


@dataclass(frozen=True)
class SidePace:
    """Tokens per second: of reading a prompt, of one reply, of several together; None: not known."""

    prefill: float | None
    one: float | None
    many: float | None


class ComparedSide(Protocol):
    """One of the models. `name`: as it was given; `blind`: why it cannot weigh given answers, or nothing."""

    name: str
    subject: Subject

    @property
    def blind(self) -> str: ...

    def read(self, examples: Sequence[Example]) -> tuple[set[Key], str]:
        """The keys of the examples that it can read, and why it cannot read the first other one."""
        ...

    def bits(self, keys: Sequence[Key]) -> np.ndarray:
        """Bits of the answers of these examples, which were read. Errors: `CoterieError`, one line."""
        ...

    def pace(self, clients: int) -> SidePace:
        """One round of measuring its speed."""
        ...

    def facts(self) -> dict[str, Any]:
        """Further fields of `ComparedModel`."""
        ...


def open_side(given: str, key_file: str | None = None) -> ComparedSide:
    """The model of a directory, a GGUF file, a hub id, an address, or `ADDRESS#MODEL` of a server.

    Errors: `CoterieError`, one line.
    """
    address, _, model = given.partition("#") if is_url(given) else (given, "", "")
    subject = open_subject(
        EvalConfig(model=address, model_name=model or None, tasks=("none",), key_file=key_file, name=given)
    )
    return ServedSide(given, subject) if isinstance(subject, RemoteSubject) else LocalSide(given, subject)


class LocalSide:
    """A model in this process."""

    blind = ""

    def __init__(self, name: str, subject: Subject) -> None:
        assert isinstance(subject, LocalSubject)
        self.name = name
        self.subject: Subject = subject
        self.model: LanguageModel = subject.model
        self.tokenizer = subject.tokenizer
        self._kept: dict[Key, TokenExample] = {}
        self._kernels = ""

    def read(self, examples: Sequence[Example]) -> tuple[set[Key], str]:
        """See `ComparedSide`."""
        longest = min(LONGEST, self.model.config.max_positions)
        read = tokenise_all(ExampleSet("", list(examples)), self.tokenizer, longest)
        plain = {key_of(one) for one in examples if isinstance(one, PairExample)}
        for one in read.examples:
            if one.part == 0 and one.label is None:
                key = (one.origin.file, one.origin.line)
                self._kept[key] = self._without_end(one) if key in plain else one
        return set(self._kept), str(read.problems[0]) if read.problems else ""

    def _without_end(self, example: TokenExample) -> TokenExample:
        """The end of a plain text is not scored: a server does not say what its token is."""
        (sequence,) = example.sequences
        if sequence.ids[-1] != self.tokenizer.eos_id:
            return example
        shorter = TokenSequence(sequence.ids[:-1], sequence.learnt[:-1])
        return TokenExample((shorter,), example.origin) if shorter.num_learnt else example

    def tokens(self, keys: Sequence[Key]) -> list[tuple[int, ...]]:
        """The token ids of examples that were read."""
        return [self._kept[key].sequences[0].ids for key in keys]

    def bits(self, keys: Sequence[Key]) -> np.ndarray:
        """See `ComparedSide`."""
        return self.bits_of(self.model, keys)

    def bits_of(self, model: LanguageModel, keys: Sequence[Key]) -> np.ndarray:
        """The same of another model with this tokenizer, such as a tuned form."""
        chosen = [self._kept[key] for key in keys]
        length = max(one.positions for one in chosen)
        rows = pack(chosen, length, self.tokenizer.eos_id, together=False)
        scores = unit_scores(model.model, rows, model.device)
        return np.array([score.nats for score in scores]) / math.log(2)

    def routing(self, keys: Sequence[Key]) -> ModelRouting | None:
        """How a mixture routes these examples; None for a dense model."""
        if not self.model.config.is_moe:
            return None
        ids = [np.array(ids, dtype=np.int64) for ids in self.tokens(keys)]
        return routing_report(
            self.model.model, [HeldoutDocument("your examples", one, 1) for one in ids]
        ).last

    def pace(self, clients: int) -> SidePace:
        """See `ComparedSide`."""
        config, model = self.model.config, self.model.model
        room = max(1, config.max_positions - TOKENS - 2)
        ids = [number % config.vocab_size for number in range(1, 1 + min(_PROMPT, room))]
        one = measure_decode(model, ids, TOKENS, repeats=1)
        many = measure_decode(model, ids, TOKENS, batch=clients, repeats=1)
        read = measure_prefill(model, ids, repeats=1)
        self._kernels = one.kernels
        return SidePace(read.tokens_per_second, one.tokens_per_second, many.tokens_per_second)

    def facts(self) -> dict[str, Any]:
        """See `ComparedSide`."""
        counts = count_parameters(self.model.config)
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in self.model.model.state_dict().values()}
        return {
            "family": self.model.config.family,
            "parameters": counts.total,
            "active_parameters": counts.active_core,
            "weight_bytes": sum(tensors.values()),
            "kernels": self._kernels,
        }


class ServedSide:
    """A model behind a URL. Of its size and memory nothing is known."""

    def __init__(self, name: str, subject: RemoteSubject) -> None:
        self.name = name
        self.subject: Subject = subject
        self._remote = subject
        self._kept: dict[Key, TokenSequence] = {}

    @cached_property
    def _answers(self) -> ServedAnswers:
        return ServedAnswers(self._remote, LONGEST)

    @property
    def blind(self) -> str:
        """See `ComparedSide`."""
        return self._answers.blind

    def read(self, examples: Sequence[Example]) -> tuple[set[Key], str]:
        """See `ComparedSide`."""
        found = self._remote.each(self._answers.read, examples)
        why = next((one for one in found if isinstance(one, str)), "")
        self._kept = {
            key_of(example): one
            for example, one in zip(examples, found, strict=True)
            if not isinstance(one, str)
        }
        return set(self._kept), why

    def bits(self, keys: Sequence[Key]) -> np.ndarray:
        """See `ComparedSide`."""
        nats = self._remote.each(self._answers.nats, [self._kept[key] for key in keys])
        return np.array(nats) / math.log(2)

    def pace(self, clients: int) -> SidePace:
        """See `ComparedSide`; of streamed replies, from the first piece on. Errors: `EndpointError`."""
        return SidePace(None, self._streamed(1), self._streamed(clients))

    def _streamed(self, clients: int) -> float | None:
        load = Load(clients=clients, requests=clients, prompt_words=_PROMPT // 2, max_tokens=TOKENS)
        found = measure(self._remote.endpoint, self._remote.speaker.model, load)
        times = found["per_token_ms"]
        return None if times is None or found["failures"] else 1000 * clients / times["p50"]

    def facts(self) -> dict[str, Any]:
        """See `ComparedSide`."""
        return {"served": True, "kernels": self.subject.profile.kernels}


def key_of(example: Example) -> Key:
    """Where an example stands, by which the models' readings of it are put together."""
    return example.origin.file, example.origin.line


def answer_bytes(example: Example) -> int:
    """Bytes of what an example answers, the same for every model; 0 for examples without one answer."""
    if isinstance(example, ChatExample):
        learn = example.learn or [message.role == "assistant" for message in example.messages]
        said = [message.text for message, its in zip(example.messages, learn, strict=True) if its]
        return sum(len(text.encode()) for text in said)
    return len(example.completion.encode()) if isinstance(example, PairExample) else 0


def paces(sides: Sequence[ComparedSide], clients: int, rounds: int) -> dict[str, SidePace]:
    """Medians of the rounds; every round takes all models in turn."""
    found: dict[str, list[SidePace]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side.name].append(side.pace(clients))
    return {name: middle(rows) for name, rows in found.items()}


def middle(rows: Sequence[SidePace]) -> SidePace:
    """The medians; what one of the rounds does not know is not known."""
    columns = ([row.prefill for row in rows], [row.one for row in rows], [row.many for row in rows])
    return SidePace(
        *(
            None if None in column else median(value for value in column if value is not None)
            for column in columns
        )
    )
