"""A subject whose model writes what a test wants, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pytest

from coterie.evaluate.local_subject import LocalSubject
from coterie.infer.request import RequestOptions
from coterie.infer.sampling import SamplingParams
from tests.reinforce.forced import Forced
from tests.text.calling import call_text, stop_of


def scripted(patch: pytest.MonkeyPatch, subject: LocalSubject, replies: Sequence[str]) -> None:
    """Write these replies in turn: `NAME {arguments}` for a call, other text for an answer."""
    engine, tokenizer, left = subject._engine, subject.tokenizer, list(replies)
    add = engine.add

    def forced(ids: Iterable[int], params: SamplingParams, options: RequestOptions) -> int:
        reply = left.pop(0)
        name, _, arguments = reply.partition(" ")
        call = arguments.startswith("{")
        text = call_text(tokenizer, name, arguments) if call else reply
        written = [*tokenizer.encode(text, allow_special=True), stop_of(tokenizer, call)]
        filter = Forced(written, subject.model.config.vocab_size)
        return add(ids, params, dataclasses.replace(options, filter=filter))

    patch.setattr(engine, "add", forced)
