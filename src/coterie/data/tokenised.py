"""Tuning examples as token ids with a mark on each token that is learnt, and their packing into rows.

    Example -> tokenise_all -> TokenExample (one or two TokenSequences) -> pack -> Row

A text longer than a row gives several token examples; every other example gives one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coterie.config.errors import DataError
from coterie.config.tune import ControlTokens
from coterie.data.examples import ExampleSet
from coterie.data.formats import (
    ChatExample,
    Example,
    LabelledExample,
    PairExample,
    PreferenceExample,
    PretokenisedExample,
    TextExample,
)
from coterie.data.records import Origin, Problem
from coterie.data.rows import Row, best_fit, row_of
from coterie.text.chat import Message, Rendered, render, render_ids, with_call_ids
from coterie.text.template_facts import complaint_of
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenSequence:
    """The token ids of one sequence, and for each whether it is learnt."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt. The first token has no prediction, so it never counts."""
        return sum(self.learnt[1:])


@dataclass(frozen=True)
class TokenExample:
    """What is learnt as one: a single sequence, or two that are compared.

    A preference has the chosen sequence, then the rejected one. A labelled continuation has its own sequence,
    then its prompt with the continuation of another example. `label`: whether the continuation is wanted
    (None: the data is not labelled). `margin`: by how much the chosen sequence is better. `part`: number of
    the part of a long text, from 0; the parts of a text follow each other.
    """

    sequences: tuple[TokenSequence, ...]
    origin: Origin
    label: bool | None = None
    margin: float = 0.0
    part: int = 0

    @property
    def positions(self) -> int:
        """Positions it takes in a row. The last token of a sequence is only a target, so it takes none."""
        return sum(len(sequence.ids) - 1 for sequence in self.sequences)


@dataclass
class TokenExampleSet:
    """Token examples, and the problems of those that gave none. `judged`: preferences or labels."""

    examples: list[TokenExample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    judged: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return count_tokens(self.examples)

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt, of all sequences."""
        return count_learnt(self.examples)


def count_tokens(examples: Sequence[TokenExample]) -> int:
    """Tokens of all sequences of `examples`."""
    return sum(len(sequence.ids) for example in examples for sequence in example.sequences)


def count_learnt(examples: Sequence[TokenExample]) -> int:
    """Tokens that are learnt, of all sequences of `examples`."""
    return sum(sequence.num_learnt for example in examples for sequence in example.sequences)


def tokenise_all(
    found: ExampleSet, tokenizer: Tokenizer, max_length: int, control_tokens: ControlTokens = "ids"
) -> TokenExampleSet:
    """Every example as token examples of at most `max_length` positions, or as a problem with its line.

    `control_tokens`: what names of special tokens in plain texts and completions are (`TuneConfig`).
    """
    result = TokenExampleSet(problems=list(found.problems))
    for example in found.examples:
        try:
            result.examples += _token_examples(example, tokenizer, max_length, control_tokens)
        except DataError as error:
            result.problems.append(Problem(example.origin.file, example.origin.line, str(error)))
    result.judged = any(
        isinstance(example, PreferenceExample | LabelledExample) for example in found.examples
    )
    if any(isinstance(example, LabelledExample) for example in found.examples):
        result.examples = _with_mismatched(result, max_length)
    return result


def tokenise(
    example: ChatExample | PairExample | PretokenisedExample,
    tokenizer: Tokenizer,
    control_tokens: ControlTokens = "ids",
) -> TokenSequence:
    """One example as a token sequence.

    Errors: `DataError` for a template that cannot be used, tokens that the tokenizer lacks, special tokens
    spelt in plain text, a start or end token written twice, or nothing to learn.
    """
    if isinstance(example, ChatExample):
        tools = list(example.tools)
        _check_unread(example, tokenizer)
        complaint = complaint_of(tokenizer, example.messages, tools, example.variables)
        if complaint is not None:
            raise DataError(complaint)
        rendered = _rendered(example, tokenizer)
        ids, learnt = rendered.ids, rendered.mask
    elif isinstance(example, PairExample):
        ids, learnt = _plain(example.prompt, example.completion, tokenizer, control_tokens)
    else:
        ids, learnt = list(example.ids), [label != -100 for label in example.labels]
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            raise DataError(f"holds a token outside the tokenizer's {tokenizer.vocab_size}")
    sequence = TokenSequence(tuple(ids), tuple(learnt))
    begin = tokenizer.named_tokens.get("bos_token")
    if begin is not None and list(ids[:2]) == [tokenizer.token_id(begin)] * 2:
        raise DataError(
            f"begins with {begin} twice; the template writes it already, so leave it out of the text"
        )
    if len(ids) > 1 and ids[-2:] == [tokenizer.eos_id] * 2:
        raise DataError(
            "ends with the end of text twice; the template writes it already, so leave it out of the text"
        )
    if sequence.num_learnt == 0:
        raise DataError("has nothing to learn: no token of an assistant is marked")
    return sequence


def _rendered(example: ChatExample, tokenizer: Tokenizer) -> Rendered:
    """A conversation as tokens. Calls of formats without ids get some if the template refuses them so."""
    tools, variables = list(example.tools) or None, example.variables

    def show(messages: Sequence[Message]) -> Rendered:
        return render_ids(tokenizer, messages, tools=tools, variables=variables, learn=example.learn)

    try:
        return show(example.messages)
    except DataError:
        calls = [call for message in example.messages for call in message.tool_calls]
        if all(call.id is not None for call in calls):
            raise
        try:
            return show(with_call_ids(example.messages))
        except DataError:
            pass
        raise


def _check_unread(example: ChatExample, tokenizer: Tokenizer) -> None:
    """Errors: `DataError` for a field of a turn that nothing reads, the template included."""
    lost = [name for name in example.unread if not _shows(example, name, tokenizer)]
    if lost:
        names = ", ".join(f"'{name}'" for name in lost)
        raise DataError(
            f"has {names} in its turns, which the chat template does not read; remove or rename it"
        )


def _shows(example: ChatExample, name: str, tokenizer: Tokenizer) -> bool:
    """Whether the chat template does anything with the field `name` of this conversation's turns."""
    template = tokenizer.template_for(bool(example.tools))
    if not re.search(rf"\b{re.escape(name)}\b", template):
        return False
    values = [message.extra[name] for message in example.messages if name in message.extra]
    if not any(values):  # false or 0: a template that reads it may well write nothing
        return True
    # The name may be there for something else: `tools` in a turn is not the row's `tools`.
    bare = [
        replace(message, extra={key: value for key, value in message.extra.items() if key != name})
        for message in example.messages
    ]
    names = {**tokenizer.named_tokens, **example.variables}
    given, without = (
        render(messages, template, tools=example.tools or None, variables=names)
        for messages in (example.messages, bare)
    )
    return given != without


def pack(
    examples: Sequence[TokenExample],
    row_length: int,
    padding_id: int,
    judged: bool = False,
    together: bool = True,
) -> list[Row]:
    """Rows of `row_length` positions that hold every example whole. Without `together`, each has its own row.

    Errors: `DataError` for an example that does not fit in a row.
    """
    for example in examples:
        if example.positions > row_length:
            raise DataError(
                f"{example.origin}: takes {example.positions} positions and a row has {row_length}"
            )
    bins = [[index] for index in range(len(examples))]
    if together:
        bins = best_fit([example.positions for example in examples], row_length)
    rows = []
    for members in bins:
        chosen = [examples[index] for index in members]
        pairs = [(sequence.ids, sequence.learnt) for example in chosen for sequence in example.sequences]
        rows.append(row_of(pairs, row_length, padding_id, _streams(chosen) if judged else {}))
    return rows


def _streams(examples: Sequence[TokenExample]) -> dict[str, list[float]]:
    """The streams of preferences or labels (`data.rows.Row`), one value per sequence of the examples."""
    count = len(examples)
    streams: dict[str, list[float]] = {"pair": [number for number in range(count) for _ in range(2)]}
    if examples[0].label is None:
        streams["side"] = [1.0, -1.0] * count
        streams["margin"] = [example.margin for example in examples for _ in range(2)]
    else:
        streams["label"] = [value for example in examples for value in (1.0 if example.label else -1.0, 0.0)]
    return streams


def _token_examples(
    example: Example, tokenizer: Tokenizer, max_length: int, control: ControlTokens
) -> list[TokenExample]:
    if isinstance(example, TextExample):
        ids, _ = _plain("", example.text, tokenizer, control)
        # Neighbouring parts share one token: the last target of a part is the first input of the next.
        parts = [ids[at : at + max_length + 1] for at in range(0, max(1, len(ids) - 1), max_length)]
        return [
            TokenExample((TokenSequence(tuple(part), (True,) * len(part)),), example.origin, part=number)
            for number, part in enumerate(parts)
            if len(part) > 1
        ]
    if isinstance(example, PreferenceExample):
        found = TokenExample(
            (tokenise(example.chosen, tokenizer, control), tokenise(example.rejected, tokenizer, control)),
            example.origin,
            margin=example.margin,
        )
        if found.sequences[0] == found.sequences[1]:
            raise DataError("chosen and rejected are the same tokens, so there is nothing to prefer")
    elif isinstance(example, LabelledExample):
        found = TokenExample((tokenise(example.example, tokenizer, control),), example.origin, example.label)
    else:
        found = TokenExample((tokenise(example, tokenizer, control),), example.origin)
    if found.positions > max_length:
        raise DataError(
            f"takes {found.positions} positions and row_length is {max_length}; raise it or split this"
        )
    return [found]


def _with_mismatched(found: TokenExampleSet, max_length: int) -> list[TokenExample]:
    """Labelled examples with a second sequence: their prompt and the continuation of the example before.

    KTO estimates its baseline from such mismatched pairs (Ethayarajh et al., arXiv 2402.01306).
    """
    examples = []
    for index, example in enumerate(found.examples):
        own, other = example.sequences[0], found.examples[index - 1].sequences[0]
        start, other_start = own.learnt.index(True), other.learnt.index(True)
        mismatched = TokenSequence(
            own.ids[:start] + other.ids[other_start:], own.learnt[:start] + other.learnt[other_start:]
        )
        both = TokenExample((own, mismatched), example.origin, example.label, example.margin)
        if both.positions > max_length:
            problem = (
                f"takes {both.positions} positions with the mismatched continuation it is compared with; "
                "raise row_length"
            )
            found.problems.append(Problem(example.origin.file, example.origin.line, problem))
        else:
            examples.append(both)
    return examples


def _plain(
    prompt: str, completion: str, tokenizer: Tokenizer, control: ControlTokens
) -> tuple[list[int], list[bool]]:
    """Ids of a text without a template, encoded as one, and what is learnt: its completion and the end.

    Errors: `DataError` for the name of a special token, unless `control` says what that is.
    """
    text = prompt + completion
    special = tokenizer.special_names_in(text)
    if special and control == "refuse":
        raise DataError(
            f"spells the special token {special[0]} in plain text; use messages, or set control_tokens=ids "
            "(it is the token) or control_tokens=text (it is letters)"
        )
    if control == "ids" or not special:
        encoded = tokenizer.encode_places(text)
    else:
        encoded = tokenizer.encode_places(text, lambda name, _: not tokenizer.is_special(name))
    start, end, ids = list(tokenizer.start_ids), [tokenizer.eos_id], encoded.ids
    # A text that a template has rendered writes its own start and end.
    if special and ids[: len(start)] == start:
        start = []
    if special and ids and _last_sign(ids, tokenizer) in tokenizer.stop_ids:
        end = []
    learnt = [stop > len(prompt) for _, stop in encoded.offsets]
    return [*start, *ids, *end], [False] * len(start) + learnt + [True] * len(end)


def _last_sign(ids: list[int], tokenizer: Tokenizer) -> int:
    """The last token that is not white space: a template may write a line break after the end of a turn."""
    marked = (token for token in reversed(ids) if tokenizer.token_bytes([token])[0].strip())
    return next(marked, ids[-1])
