"""The fields of a row: which of them a reader used, and what is said of the others.

Readers take fields from a `Fields`, which remembers what was taken. Whatever is left over is judged here by
its name: a field that tells what to learn makes the row unusable, a column such as `id` is listed as not
used, and any other one is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, parse_json

# What a field means, by the names that public data and other tools give it.
MARKS = ("loss", "train", "training", "trainable", "weight", "loss_weight", "loss_scale", "loss_mask")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "reasoning_text")
QUESTION = ("query", "question", "problem", "instruction", "prompt", "input")
ANSWER = ("response", "answer", "solution", "output", "completion")
TOOLS = ("tools", "functions")
# Templates get these; TRL and others read them from rows.
VARIABLES = ("chat_template_kwargs",)
MASKS = (
    "completion_mask", "assistant_masks", "assistant_mask", "loss_mask", "prompt_mask", "labels_mask",
)  # fmt: skip

# A row that has one of these and a format that does not read it would teach something else than it says.
_TELLING = frozenset((*MARKS, *REASONING, *TOOLS, *VARIABLES, *MASKS)) | frozenset(
    "system system_prompt history context mask masked train_detail train_on_input train_on_inputs "
    "train_on_prompt tool_calls function_call tool_choice documents segments attention_mask image "
    "images video videos audio audios objects completions chosen rejected rejected_response "
    "rejected_messages rejected_images preferred_output non_preferred_output margin refusal channel "
    "recipient suffix weights loss_weights token_weights sample_weight target_mask target_masks train_mask "
    "label_mask learn learnt ignore do_not_train".split()
)
_IGNORED = frozenset(
    "id uid uuid idx index no number row key hash sha name title url link path file filename source src "
    "origin source_id dataset dataset_name data_source subset split config version license author creator "
    "model model_name generator teacher category categories topic topics subject domain domains field "
    "task tasks task_type task_name type kind tag tags keywords lang language languages locale difficulty "
    "level grade score scores rating ratings rank reward rewards quality confidence votes upvotes "
    "downvotes score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating "
    "chosen_model rejected_model chosen-rating rejected-rating chosen-model rejected-model "
    "ref_chosen_logps ref_rejected_logps date time timestamp created created_at updated_at length lengths "
    "num_tokens token_count n_tokens tokens char_count word_count turns num_turns turn turn_count meta "
    "metadata info extra extras annotation annotations annotator comment comments notes note user user_id "
    "usage finish_reason stop_reason logprobs parallel_tool_calls seed temperature top_p md5 sha256 "
    "__index_level_0__ cluster embedding".split()
)
_ENDINGS = ("_id", "_ids_hash", "-id", "_url", "_hash", "_timestamp", "_score", "_rating", "_count")


def says_nothing(value: Any) -> bool:
    """Whether a field's value is null or empty, as padding is."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def ignorable(name: str) -> bool:
    """Whether a field describes the row and is no part of it: ids, sources, scores, dates, counts."""
    return name.lower() in _IGNORED or name.lower().endswith(_ENDINGS)


def telling(name: str) -> bool:
    """Whether a field says what is learnt, so that a row in which nothing reads it cannot be used."""
    return name.lower() in _TELLING


def check_lost(record: Mapping[str, Any], names: Iterable[str], kind: str) -> None:
    """Errors: `DataError` for fields among `names`, which nothing read, that say what is learnt."""
    lost = sorted(name for name in names if telling(name) and not says_nothing(record.get(name)))
    if lost:
        listed = ", ".join(f"'{name}'" for name in lost)
        raise DataError(f"has {listed}, which rows of the format '{kind}' do not use; remove or rename it")


class Fields:
    """The fields of one row. `taken`: the names that a reader used."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self.record.get(name) is not None

    def take(self, *names: str) -> Any:
        """The value of the one field among `names` that is not null, or None.

        Errors: `DataError` if several of them say different things.
        """
        found = [name for name in names if self.record.get(name) is not None]
        self.taken.update(names)
        if len({repr(self.record[name]) for name in found}) > 1:
            raise DataError(f"has {' and '.join(found)}, which differ; keep one of them")
        return self.record[found[0]] if found else None

    def text(self, *names: str) -> str:
        """The text of the one field among `names`. Errors: `DataError` for anything else."""
        value = self.take(*names)
        if not isinstance(value, str):
            found = next((name for name in names if name in self), names[0])
            raise DataError(f"field '{found}' is {type(value).__name__}; text was expected")
        return value

    def left(self) -> Iterator[str]:
        """The fields that hold something and that nothing has taken."""
        return (
            name for name, value in self.record.items() if name not in self.taken and not says_nothing(value)
        )


def mark(name: str, value: Any) -> bool:
    """A mark that says whether something is learnt: true or false, 1 or 0, or one of these as a word.

    Errors: `DataError` for another value; a turn is learnt or it is not, so 0.25 is one.
    """
    plain = value.strip().lower() if isinstance(value, str) else value
    if isinstance(plain, bool | int | float) and plain in (0, 1):
        return bool(plain)
    if plain in ("true", "yes", "on", "1", "1.0"):
        return True
    if plain in ("false", "no", "off", "0", "0.0"):
        return False
    raise DataError(f"{name} is {short(value)}; it can be true (1) or false (0), nothing between")


def one_mark(fields: Mapping[str, Any], names: Sequence[str] = MARKS) -> bool | None:
    """What the marks among `names` say together; None if there is none.

    Errors: `DataError` if they contradict each other or one has another value than true or false.
    """
    found = {name: mark(name, fields[name]) for name in names if fields.get(name) is not None}
    if len(set(found.values())) > 1:
        raise DataError(f"{' and '.join(found)} contradict each other; keep one of them")
    return next(iter(found.values()), None)


def from_json(value: Any, name: str) -> Any:
    """The value, or what it holds if it is JSON as text. Errors: `DataError` for text that is not JSON."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JsonError as error:
        raise DataError(f"field '{name}' is text and {error}") from None


def plain_json(value: Any, name: str) -> Any:
    """The value, if a template can be given it: text, finite numbers, booleans, null, lists and objects.

    Errors: `DataError` for anything else, such as the dates, bytes and NaN that Parquet can hold.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            if not all(isinstance(key, str) for key in item):
                raise DataError(f"field '{name}' has a key other than text")
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
        elif isinstance(item, float) and not math.isfinite(item):
            raise DataError(f"field '{name}' holds {item}, which JSON cannot express")
        elif item is not None and not isinstance(item, str | bool | int | float):
            raise DataError(f"field '{name}' holds a {type(item).__name__}; JSON's types were expected")
    return value


def short(value: Any) -> str:
    """A value for a message, in few characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
