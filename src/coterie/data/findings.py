"""What is wrong or doubtful in tuning examples: the same words and lines from `coterie data lint` and `tune`.

A problem makes its example unusable. A warning is a situation in which training goes on, though what is
learnt may not be what was meant; each is given once, with the first line and the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from coterie.config.tune import ControlTokens
from coterie.data.examples import ExampleSet
from coterie.data.formats import (
    ChatExample,
    Example,
    LabelledExample,
    PairExample,
    PreferenceExample,
    TextExample,
)
from coterie.data.records import Origin, Problem
from coterie.data.tokenised import TokenExample, TokenExampleSet, TokenSequence
from coterie.text.chat import Message, render, typed_control_tokens
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.template_facts import left_out
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


def examine(
    examples: ExampleSet,
    result: TokenExampleSet,
    tokenizer: Tokenizer,
    control_tokens: ControlTokens = "ids",
) -> Findings:
    """Look at every example that became tokens. Examples with a problem are taken out of `result`.

    `control_tokens`: what `result` makes of the names of special tokens in plain text.
    """
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
        if spelt := tokenizer.special_names_in(_plain_text(example)):
            read = "read as that token" if control_tokens == "ids" else "learnt as letters"
            findings.warn(f"the name of a special token in plain text is {read}: {spelt[0]}", example.origin)
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


def _plain_text(example: Example) -> str:
    """All text of an example for which no template is used."""
    if isinstance(example, PreferenceExample):
        return f"{_plain_text(example.chosen)}\0{_plain_text(example.rejected)}"
    inner = example.example if isinstance(example, LabelledExample) else example
    if isinstance(inner, PairExample):
        return inner.prompt + inner.completion
    return inner.text if isinstance(inner, TextExample) else ""


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
        self._stops = [name for name, token in tokenizer.added_tokens.items() if token in tokenizer.stop_ids]

    def lost_call(self, chat: ChatExample, sequence: TokenSequence) -> str | None:
        """A learnt call of a tool that the reply parser does not recover; a server would miss it too."""
        wanted = [
            (turn, call)
            for turn, (message, learnt) in enumerate(zip(chat.messages, _learn(chat), strict=True), 1)
            for call in (message.tool_calls if learnt else ())
        ]
        if not wanted:
            return None
        form = format_of(self._tokenizer.template_for(bool(chat.tools)))
        replies = [parse_reply(text, form, opened) for text, opened in self._replies(sequence)]
        read = [call for reply in replies for call in reply.tool_calls]
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
        """Words that the template does not show and nobody learns, and control tokens that people typed."""
        if typed := typed_control_tokens(self._tokenizer, chat.messages, tools=chat.tools):
            names = " and ".join(f"'{name}'" for name in typed)
            yield f"{names} in the words of a user or a tool stays text"
        template = self._tokenizer.template_for(bool(chat.tools))
        names_given = {**self._tokenizer.named_tokens, **chat.variables}

        def rendered(messages: Sequence[Message]) -> str:
            return render(messages, template, False, chat.tools or None, names_given)

        learn = _learn(chat)
        for index, what in left_out(chat.messages, rendered(chat.messages), rendered):
            if not learn[index]:  # what is to be learnt and is left out is a problem
                role = chat.messages[index].role
                yield f"the chat template leaves out {what} of turn {index + 1} ({role})"


def _learn(chat: ChatExample) -> tuple[bool, ...]:
    """For each message whether it is learnt."""
    if chat.learn is not None:
        return chat.learn
    return tuple(message.role == "assistant" for message in chat.messages)
