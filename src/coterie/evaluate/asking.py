"""How items are put to a model: its chat template, or plain text for a model without one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coterie.benchmarks.item import BenchmarkItem
from coterie.evidence.canonical import digest_bytes, digest_of
from coterie.sandbox.tools import Tool

Form = Literal["chat", "plain", "text", "server"]
FORMS: tuple[str, ...] = ("auto", "chat", "plain", "text")
# Plain form: questions and answers one after the other; a reply ends where the model asks itself the next.
QUESTION, ANSWER = "Question: ", "Answer:"
PLAIN_STOP = f"\n{QUESTION.rstrip()}"
PLAIN_TEMPLATE = digest_bytes(f"plain 1\n{QUESTION}\n{ANSWER}".encode())
TEXT_TEMPLATE = digest_bytes(b"text 1")


@dataclass(frozen=True)
class ReplyOptions:
    """How replies are asked for.

    `max_tokens`: of the answer; a model that reasons may use `reasoning_tokens` more before it. `seed`: of
    sampling, with the item's digest. `effort`: how much to reason (`reasoning.effort`; None: as the model
    likes). `form`: `auto` is the chat template where there is one, else `plain`; `text`: the words of the
    turns and nothing else, up to the end of a line. `system`: put before each item. `turns`: replies of one
    conversation with tools at most.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    effort: str | None = None
    reasoning_tokens: int = 1024
    form: str = "auto"
    system: str | None = None
    turns: int = 8

    def seed_of(self, item: BenchmarkItem) -> int | None:
        """The seed of the reply to one item, whatever else is asked; None where replies are greedy."""
        if self.temperature == 0:
            return None
        digest = hashlib.sha256(f"{self.seed or 0}:{item.digest}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1


def turns_of(item: BenchmarkItem, options: ReplyOptions) -> list[dict[str, Any]]:
    """The messages of an item, behind the system message of the options."""
    head = [{"role": "system", "content": options.system}] if options.system else []
    return [*head, *(dict(turn) for turn in item.turns)]


def tools_of(item: BenchmarkItem, environment: Sequence[Tool] = ()) -> list[dict[str, Any]]:
    """How the tools of an item are described to the model."""
    return [dict(tool) for tool in item.tools] or [tool.spec() for tool in environment]


def plain_text(item: BenchmarkItem, options: ReplyOptions) -> str:
    """The item for a model without a chat template; what follows it is the answer, behind a space."""
    if options.form == "text":
        return "".join(str(turn.get("content") or "") for turn in turns_of(item, options))
    parts = []
    for turn in turns_of(item, options):
        content = str(turn.get("content") or "")
        if turn.get("role") == "assistant":
            parts.append(f" {content}\n\n")
        elif turn.get("role") == "system":
            parts.append(f"{content}\n\n")
        else:
            parts.append(f"{QUESTION}{content}\n{ANSWER}")
    return "".join(parts)


def continuation_of(text: str, choice: str) -> str:
    """A choice as it follows a plain text."""
    return choice if not text or text[-1].isspace() or choice[:1].isspace() else f" {choice}"


def prompt_digest(item: BenchmarkItem, options: ReplyOptions, form: Form) -> str:
    """Digest of what a model is given, the same for all models that are given it in this form.

    A chat has one digest whether a template renders it here or on a server; the template has its own digest.
    """
    if form in ("plain", "text"):
        return digest_of({"text": plain_text(item, options)})
    return digest_of({"turns": turns_of(item, options), "tools": tools_of(item), "effort": options.effort})
