"""What is wrong or doubtful in tuning examples: the same words and lines from `coterie data lint` and `tune`.

A problem makes its example unusable. A warning is a situation in which training goes on, though what is
learnt may not be what was meant; each is given once, with the first line and the number of examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from coterie.config.errors import DataError
from coterie.data.examples import ExampleSet
from coterie.data.formats import ChatExample, Example, LabelledExample, PreferenceExample, TextExample
from coterie.data.records import Origin, Problem
from coterie.data.tokenised import TokenExample, TokenExampleSet, TokenSequence
from coterie.text.chat import render, typed_control_tokens
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer

_OPEN = ("<think>", "[THINK]")  # a prompt may end inside the reasoning of the reply
_TAIL = 16  # tokens before a reply that show whether it does


@dataclass
class Findings:
    """`warnings` by what they say, each with its first example and the number of examples."""

    problems: list[Problem] = field(default_factory=list)
    found: dict[str, tuple[Origin, int]] = field(default_factory=dict)

    def warn(self, message: str, origin: Origin) -> None:
        """Count an example with a doubtful situation."""
        first, count = self.found.get(message, (origin, 0))
        self.found[message] = (first, count + 1)

    def warnings(self) -> list[Problem]:
        """One line for each warning, in the order of files and lines."""
        lines = [
            Problem(first.file, first.line, f"{message} ({count:,} in all)" if count > 1 else message, True)
            for message, (first, count) in self.found.items()
        ]
        return sorted(lines, key=lambda line: (line.path, line.line))


def examine(examples: ExampleSet, result: TokenExampleSet, tokenizer: Tokenizer) -> Findings:
    """Look at every example that became tokens. Examples with a problem are taken out of `result`."""
    findings = Findings()
    tokens: dict[Origin, TokenExample] = {}
    parts: dict[Origin, int] = {}
    for token_example in result.examples:
        tokens.setdefault(token_example.origin, token_example)
        parts[token_example.origin] = parts.get(token_example.origin, 0) + 1
    template = _Template(tokenizer)
    for example in examples.examples:
        if example.origin not in tokens:
            continue  # tokenising it gave a problem
        if isinstance(example, TextExample) and parts[example.origin] > 1:
            findings.warn("the text is longer than a row and is cut into parts", example.origin)
        for chat, sequence in zip(chats_of(example), tokens[example.origin].sequences, strict=False):
            if fault := template.lost_call(chat, sequence):
                findings.problems.append(Problem(example.origin.file, example.origin.line, fault))
            for message in template.doubts(chat):
                findings.warn(message, example.origin)
    for token_example in result.examples if examples.format != "text" else ():
        last = last_learnt(token_example.sequences[0])
        if last is not None and last not in tokenizer.stop_ids:
            message = "the reply does not end with a stop token, so a model would not learn when to stop"
            findings.warn(message, token_example.origin)
    bad = {(problem.path, problem.line) for problem in findings.problems}
    result.examples = [e for e in result.examples if (e.origin.file, e.origin.line) not in bad]
    return findings


def chats_of(example: Example) -> list[ChatExample]:
    """The conversations of an example: one, two, or none."""
    if isinstance(example, PreferenceExample):
        parts: list[Any] = [example.chosen, example.rejected]
    else:
        parts = [example.example if isinstance(example, LabelledExample) else example]
    return [part for part in parts if isinstance(part, ChatExample)]


def last_learnt(sequence: TokenSequence) -> int | None:
    """The last token that is learnt."""
    pairs = zip(reversed(sequence.ids), reversed(sequence.learnt), strict=True)
    return next((token for token, learnt in pairs if learnt), None)


class _Template:
    """A tokenizer's chat template, asked what it shows of an example."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._source = tokenizer.chat_template
        self._names = tokenizer.named_tokens
        self._stops = [name for name, token in tokenizer.added_tokens.items() if token in tokenizer.stop_ids]
        self._shows_tools: bool | None = None

    def lost_call(self, chat: ChatExample, sequence: TokenSequence) -> str | None:
        """A learnt call of a tool that the reply parser does not recover; a server would miss it too."""
        learn = chat.learn or (True,) * len(chat.messages)
        wanted = [
            (turn, call)
            for turn, (message, learnt) in enumerate(zip(chat.messages, learn, strict=True), 1)
            for call in (message.tool_calls if learnt else ())
        ]
        if not wanted or self._source is None:
            return None
        form = format_of(self._source)
        read = [
            call
            for text, opened in self._replies(sequence)
            for call in parse_reply(text, form, opened).tool_calls
        ]
        for turn, call in wanted:
            if call not in read:
                return (
                    f"turn {turn}: the call of '{call.name}' is lost when the rendered reply is parsed; "
                    "the template changes its form"
                )
        return None

    def _replies(self, sequence: TokenSequence) -> Iterator[tuple[str, bool]]:
        """The text of each learnt run without its end token, and whether the prompt opened its reasoning."""
        decode, start = self._tokenizer.decode, 0
        for learnt, run in groupby(sequence.learnt):
            end = start + len(list(run))
            if learnt:
                text = decode(list(sequence.ids[start:end])).rstrip()
                for name in self._stops:
                    text = text.removesuffix(name)
                before = decode(list(sequence.ids[max(0, start - _TAIL) : start])).rstrip()
                yield text, before.endswith(_OPEN)
            start = end

    def doubts(self, chat: ChatExample) -> Iterator[str]:
        """What the template does not show, and control tokens that people typed."""
        if self._source is None:
            return
        for name in chat.variables:
            if not re.search(rf"\b{re.escape(name)}\b", self._source):
                yield f"the chat template does not read '{name}' of chat_template_kwargs"
        if chat.tools and not self._tools_shown(chat):
            yield "the chat template shows no tools, so the model is trained without seeing them"
        if typed := typed_control_tokens(self._tokenizer, chat.messages, tools=chat.tools):
            names = " and ".join(f"'{name}'" for name in typed)
            yield f"{names} in the words of a user or a tool stays text"
        text = self._text(chat)
        for number, message in enumerate(chat.messages, 1):
            words = message.text.strip()
            if text is not None and message.role != "assistant" and not _holds(text, words):
                yield f"the chat template leaves out the words of turn {number} ({message.role})"

    def _tools_shown(self, chat: ChatExample) -> bool:
        """Whether the tools change the text; asked of the first example with tools, as it costs two."""
        if self._shows_tools is None:
            self._shows_tools = self._text(chat) != self._text(chat, tools=False)
        return self._shows_tools

    def _text(self, chat: ChatExample, tools: bool = True) -> str | None:
        names = {**self._names, **chat.variables}
        try:
            given = list(chat.tools) if tools and chat.tools else None
            return render(chat.messages, self._source or "", False, given, names)
        except DataError:
            return None  # tokenising the example reported it


def _holds(text: str, words: str) -> bool:
    """Whether a rendered text holds some words, perhaps spelt as JSON or with other white space."""
    if (
        words in text
        or json.dumps(words, ensure_ascii=False)[1:-1] in text
        or json.dumps(words)[1:-1] in text
    ):
        return True
    return "".join(words.split()) in "".join(text.split())
