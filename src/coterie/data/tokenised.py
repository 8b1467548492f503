"""Examples as tokens: what is read and what of it is learnt, packed into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.config.errors import DataError
from coterie.data.examples import ExampleSet
from coterie.data.formats import (
    ChatExample,
    Example,
    LabelledExample,
    PairExample,
    PreferenceExample,
    TextExample,
    TokenExample,
)
from coterie.data.records import Origin, Problem
from coterie.data.rows import Row, best_fit, row_of
from coterie.text.chat import render_ids
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """Token ids of one sequence, and for each whether it is learnt."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt; the first can never be."""
        return sum(self.learnt[1:])


@dataclass(frozen=True)
class Unit:
    """What is learnt as one: a single piece, or two.

    A preference has the chosen piece, then the rejected one. A labelled continuation has its own piece, then
    its prompt with the continuation of another. `label`: whether it is wanted (None: not labelled data).
    """

    pieces: tuple[Piece, ...]
    origin: Origin
    label: bool | None = None
    margin: float = 0.0

    @property
    def positions(self) -> int:
        """Places it takes in a row: the last token of a piece is only ever a target."""
        return sum(len(piece.ids) - 1 for piece in self.pieces)


@dataclass
class UnitSet:
    """Units, and the problems of the examples that gave none. `judged`: they are preferences or labels."""

    units: list[Unit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    judged: bool = False

    @property
    def num_tokens(self) -> int:
        return sum(len(piece.ids) for unit in self.units for piece in unit.pieces)

    @property
    def num_learnt(self) -> int:
        return sum(piece.num_learnt for unit in self.units for piece in unit.pieces)


def tokenise_all(found: ExampleSet, tokenizer: Tokenizer, max_length: int) -> UnitSet:
    """Every example as units of at most `max_length` positions; what cannot be is a problem with its line."""
    result = UnitSet(problems=list(found.problems))
    for example in found.examples:
        try:
            result.units += _units(example, tokenizer, max_length)
        except DataError as error:
            result.problems.append(Problem(example.origin.file, example.origin.line, str(error)))
    result.judged = any(
        isinstance(example, PreferenceExample | LabelledExample) for example in found.examples
    )
    if any(isinstance(example, LabelledExample) for example in found.examples):
        result.units = _with_strangers(result, max_length)
    return result


def tokenise(example: ChatExample | PairExample | TokenExample, tokenizer: Tokenizer) -> Piece:
    """One example as a piece.

    Errors: `DataError` for a template that cannot be used, tokens the tokenizer does not have, a beginning
    that stands twice, or nothing to learn.
    """
    if isinstance(example, ChatExample):
        tools = list(example.tools)
        ids, learnt = render_ids(tokenizer, example.messages, tools=tools or None, learn=example.learn)
    elif isinstance(example, PairExample):
        start, end = _begin(tokenizer), [tokenizer.eos_id]
        prompt, completion = tokenizer.encode(example.prompt), tokenizer.encode(example.completion)
        ids = [*start, *prompt, *completion, *end]
        learnt = [False] * (len(start) + len(prompt)) + [True] * (len(completion) + 1)
    else:
        ids, learnt = list(example.ids), [label != -100 for label in example.labels]
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            raise DataError(f"holds a token outside the tokenizer's {tokenizer.vocab_size}")
    piece = Piece(tuple(ids), tuple(learnt))
    begin = tokenizer.named_tokens.get("bos_token")
    if begin is not None and list(ids[:2]) == [tokenizer.token_id(begin)] * 2:
        raise DataError(
            f"begins with {begin} twice; the template writes it already, so leave it out of the text"
        )
    if len(ids) > 1 and ids[-2:] == [tokenizer.eos_id] * 2:
        raise DataError(
            "ends with the end of text twice; the template writes it already, so leave it out of the text"
        )
    if piece.num_learnt == 0:
        raise DataError("has nothing to learn: no token of an assistant is marked")
    return piece


def pack(
    units: Sequence[Unit], row_length: int, padding_id: int, judged: bool = False, together: bool = True
) -> list[Row]:
    """Rows of `row_length` positions that hold every unit whole; `together` False gives each a row of its
    own.

    Errors: `DataError` for a unit that fits no row.
    """
    for unit in units:
        if unit.positions > row_length:
            raise DataError(f"{unit.origin}: takes {unit.positions} positions and a row has {row_length}")
    bins = (
        best_fit([unit.positions for unit in units], row_length)
        if together
        else [[i] for i in range(len(units))]
    )
    rows = []
    for members in bins:
        pieces = [(piece.ids, piece.learnt) for index in members for piece in units[index].pieces]
        streams = _streams([units[index] for index in members]) if judged else {}
        rows.append(row_of(pieces, row_length, padding_id, streams))
    return rows


def _streams(units: Sequence[Unit]) -> dict[str, list[float]]:
    """The streams of preferences or labels (`data.rows.Row`), one value per piece of the units."""
    streams: dict[str, list[float]] = {"pair": [number for number in range(len(units)) for _ in range(2)]}
    if units[0].label is None:
        streams["side"] = [1.0, -1.0] * len(units)
        streams["margin"] = [unit.margin for unit in units for _ in range(2)]
    else:
        streams["label"] = [value for unit in units for value in (1.0 if unit.label else -1.0, 0.0)]
    return streams


def _units(example: Example, tokenizer: Tokenizer, max_length: int) -> list[Unit]:
    if isinstance(example, TextExample):
        ids = [*_begin(tokenizer), *tokenizer.encode(example.text), tokenizer.eos_id]
        parts = [ids[at : at + max_length + 1] for at in range(0, max(1, len(ids) - 1), max_length)]
        return [
            Unit((Piece(tuple(part), (True,) * len(part)),), example.origin)
            for part in parts
            if len(part) > 1
        ]
    if isinstance(example, PreferenceExample):
        unit = Unit(
            (tokenise(example.chosen, tokenizer), tokenise(example.rejected, tokenizer)),
            example.origin,
            margin=example.margin,
        )
        if unit.pieces[0] == unit.pieces[1]:
            raise DataError("chosen and rejected are the same tokens, so there is nothing to prefer")
    elif isinstance(example, LabelledExample):
        unit = Unit((tokenise(example.example, tokenizer),), example.origin, example.label)
    else:
        unit = Unit((tokenise(example, tokenizer),), example.origin)
    if unit.positions > max_length:
        raise DataError(
            f"takes {unit.positions} positions and row_length is {max_length}; raise it or split this"
        )
    return [unit]


def _with_strangers(found: UnitSet, max_length: int) -> list[Unit]:
    """Labelled units with a second piece: their prompt followed by the continuation of the unit before."""
    units = []
    for index, unit in enumerate(found.units):
        own, other = unit.pieces[0], found.units[index - 1].pieces[0]
        start, other_start = own.learnt.index(True), other.learnt.index(True)
        strange = Piece(
            own.ids[:start] + other.ids[other_start:], own.learnt[:start] + other.learnt[other_start:]
        )
        both = Unit((own, strange), unit.origin, unit.label, unit.margin)
        if both.positions > max_length:
            problem = (
                f"takes {both.positions} positions with the stranger it is compared with; raise row_length"
            )
            found.problems.append(Problem(unit.origin.file, unit.origin.line, problem))
        else:
            units.append(both)
    return units


def _begin(tokenizer: Tokenizer) -> list[int]:
    """What plain text begins with: the beginning-of-text token where the tokenizer names one."""
    name = tokenizer.named_tokens.get("bos_token")
    found = tokenizer.token_id(name) if name is not None else None
    return [] if found is None else [found]
