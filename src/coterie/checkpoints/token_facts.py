"""Which tokens begin, end and fill texts: read from every file that may say it, and checked.

`generation_config.json` decides what ends a reply, as in transformers; `config.json` (its `text_config` too)
decides where it says nothing; the tokenizer's own turn ends are added. Ids are checked against the rows of
the embedding: an id that no token can have would end nothing, and code that looks it up would fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.checkpoints.locate import read_json
from coterie.config import CheckpointError
from coterie.config.files import present
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenFacts:
    """The stop tokens and stop strings of a directory.

    `stops`: ids that end a reply, ascending. `stop_strings`: texts that end one. `sources`: stop id -> the
    files that name it. `notes`: what was left out or contradicts, one line each.
    """

    stops: tuple[int, ...]
    stop_strings: tuple[str, ...]
    sources: dict[int, tuple[str, ...]]
    notes: tuple[str, ...]


@dataclass
class _Gathered:
    directory: Path
    rows: int
    notes: list[str] = field(default_factory=list)

    def ids(self, value: Any, key: str, file: str) -> list[int]:
        """The ids of a key: none, one or several; those outside the embedding are left out with a note.

        Errors: `CheckpointError` for anything else.
        """
        if value is None:
            return []
        given = value if isinstance(value, list) else [value]
        wrong = [item for item in given if type(item) is not int]
        if wrong:
            raise CheckpointError(
                f"{self.directory / file}: '{key}' holds {wrong[0]!r:.60}; give a token id (a whole "
                f"number), a "
                "list of them, or null"
            )
        for number in given:
            if not 0 <= number < self.rows:
                self.notes.append(
                    f"{file}: '{key}' names token {number}, but the model has tokens 0 to "
                    f"{self.rows - 1}; left out"
                )
        return [number for number in given if 0 <= number < self.rows]


def gather_tokens(
    directory: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    rows: int,
) -> TokenFacts:
    """The token facts of a directory.

    `config`, `generation`: the content of config.json and generation_config.json (empty: absent). `rows`: of
    the model's embedding. Errors: `CheckpointError`, one line, for ids and stop strings that are not such.
    """
    found = _Gathered(directory, rows)
    text = config.get("text_config")
    homes = [("config.json", config)]
    if isinstance(text, Mapping):
        homes.append(("config.json: text_config", text))
    named = [(file, found.ids(home.get("eos_token_id"), "eos_token_id", file)) for file, home in homes]
    ends = found.ids(generation.get("eos_token_id"), "eos_token_id", "generation_config.json")
    for key in ("bos_token_id", "pad_token_id"):
        for file, home in [*homes, ("generation_config.json", generation)]:
            if home.get(key) != -1:  # the old spelling of none
                found.ids(home.get(key), key, file)
    chosen, origin = (
        (ends, "generation_config.json") if generation.get("eos_token_id") is not None else ([], "")
    )
    if not origin:
        origin, chosen = next(((file, ids) for file, ids in named if ids), ("", []))
    own = sorted(tokenizer.stop_ids) if tokenizer is not None else []
    sources: dict[int, tuple[str, ...]] = {}
    for file, ids in ((origin, chosen), ("tokenizer.json", [number for number in own if number < rows])):
        for number in ids:
            sources[number] = (*sources.get(number, ()), file)
    for file, ids in named:
        for number in ids:
            if number not in sources:
                found.notes.append(f"{file}: 'eos_token_id' {number} is ignored; {origin} decides")
    if tokenizer is not None:
        found.notes += _tokenizer_notes(directory, tokenizer, sources, str(config.get("model_type", "")))
    strings = _stop_strings(directory, generation, tokenizer)
    return TokenFacts(tuple(sorted(sources)), strings, sources, tuple(dict.fromkeys(found.notes)))


def _tokenizer_notes(
    directory: Path, tokenizer: Tokenizer, sources: Mapping[int, object], model_type: str
) -> list[str]:
    """Stop ids that the tokenizer has no token for, and ids of added_tokens.json that are another token's."""
    notes = [
        f"stop token {number} is in no vocabulary of the tokenizer ({tokenizer.vocab_size} tokens)"
        for number in sorted(sources)
        if number >= tokenizer.vocab_size
    ]
    file = directory / "added_tokens.json"
    for name, number in (read_json(file) if present(file, CheckpointError) else {}).items():
        known = tokenizer.token_id(name)
        if known is not None and known != number:
            notes.append(
                f"added_tokens.json: '{name}' is token {number}, but tokenizer.json says {known} and decides"
            )
    notes += tokenizer.notes_on_class(model_type)
    both = [directory / name for name in ("special_tokens_map.json", "tokenizer_config.json")]
    if all(path.is_file() for path in both):
        older, newer = (read_json(path) for path in both)
        for key in sorted(older.keys() & newer.keys()):
            names = [_content(side[key]) for side in (older, newer)]
            if key.endswith("_token") and None not in names and names[0] != names[1]:
                notes.append(
                    f"tokenizer_config.json: '{key}' {names[1]!r} decides; special_tokens_map.json says "
                    f"{names[0]!r}"
                )
    return notes


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _stop_strings(
    directory: Path, generation: Mapping[str, Any], tokenizer: Tokenizer | None
) -> tuple[str, ...]:
    value = generation.get("stop_strings")
    given = [value] if isinstance(value, str) else value or []
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise CheckpointError(
            f"{directory / 'generation_config.json'}: 'stop_strings' must be a string or a list of "
            f"strings, not "
            f"{value!r:.60}"
        )
    return tuple(dict.fromkeys(given)) if tokenizer is not None else ()
