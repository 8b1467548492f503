"""A user's own benchmark: a JSONL file of questions, and a few lines of YAML on how replies are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from coterie.benchmarks.answers import FORM, PICK, asked, reworded
from coterie.benchmarks.generated import listed, relisted
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, check_items
from coterie.benchmarks.rows import Row, field, read_rows
from coterie.benchmarks.scorers import SCORERS, Scorer, ScorerName, UserReward
from coterie.config import ConfigError, CoterieError, Settings
from coterie.sandbox.schemas import check_schema, problem

PROMPTS = ("prompt", "question", "problem", "instruction", "input")
ANSWERS = ("answer", "answers", "target", "solution", "label", "output")
PREFIX = "own:"
_KNOWN = {
    *PROMPTS, *ANSWERS, "id", "messages", "choices", "cluster", "group", "passage", "license", "source",
    "first_published", "rewordings", "schema",
}  # fmt: skip
DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


class OwnSettings(Settings):
    """How a user's questions are asked and judged.

    `data`: JSONL, JSON or Parquet next to the YAML file. `scorer`: one of `benchmarks.scorers`; default:
    `choice` where every question has choices, else `exact`. `reward`: a Python file with
    `reward(row, reply)`, for `python`. `form`: how to answer, behind each question; "" leaves questions as
    they are. `tolerance`: of `number`. `license`, `source`, `first_published` (a date): of questions that do
    not say.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    says: str = "a benchmark of the user's"
    version: str = "1"
    data: str
    scorer: ScorerName | None = None
    reward: str | None = None
    form: str | None = None
    system: str = ""
    ignore_case: bool = False
    tolerance: float = Field(0.0, ge=0)
    max_tokens: int = Field(256, ge=1)
    license: str = ""
    source: str = ""
    first_published: str = ""

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, data: Any) -> Any:
        """YAML reads a date as one, and a version as a number."""
        if isinstance(data, Mapping):
            return {
                name: str(value) if name in ("first_published", "version", "name") else value
                for name, value in data.items()
            }
        return data

    @model_validator(mode="after")
    def _together(self) -> OwnSettings:
        if "://" in self.data:
            raise ValueError(
                f"data '{self.data}' needs the network; fetch the file first and name it here, such as "
                "data: questions.jsonl"
            )
        if (self.scorer == "python") != (self.reward is not None):
            raise ValueError("scorer: python and reward: FILE.py belong together; give both or neither")
        if self.first_published and not DATE.fullmatch(self.first_published):
            raise ValueError(f"first_published '{self.first_published:.40}' is not a date such as 2026-05-01")
        return self


class OwnBenchmark(Benchmark):
    """Items of a user. `folder`: what `data` and `reward` are relative to. `items`: given ones, not read."""

    cluster_key = "the user's column 'cluster', else the item"

    def __init__(self, settings: OwnSettings, folder: Path, items: Sequence[BenchmarkItem] = ()) -> None:
        self.settings, self._folder = settings, folder
        self.name, self.says, self.version = settings.name, settings.says, settings.version
        self.max_tokens = settings.max_tokens
        self._rows = [] if items else _rows(folder / settings.data)
        weighed = all(item.choices for item in items) and all("choices" in row for _, row in self._rows)
        self._scorer_name: ScorerName = settings.scorer or ("choice" if weighed else "exact")
        self.mode = "choice" if self._scorer_name == "choice" else "reply"
        natural = {"choice": PICK, "exact": FORM, "number": FORM}.get(self._scorer_name, "")
        self.form = natural if settings.form is None else settings.form
        self.scorer: Scorer
        if settings.reward is not None:
            self.scorer = UserReward(folder / settings.reward)
        else:
            kind = SCORERS[self._scorer_name]
            self.scorer = kind(self.form, settings.ignore_case, settings.tolerance)
        self._items = tuple(items) or self._read()

    def items(self) -> Sequence[BenchmarkItem]:
        """The items of the file, in its order."""
        return self._items

    def _read(self) -> tuple[BenchmarkItem, ...]:
        found: list[BenchmarkItem] = []
        ids: dict[str, str] = {}
        questions: dict[str, str] = {}
        for place, row in self._rows:
            item = self._item(place, row, len(found))
            asks = repr((item.turns, item.choices))
            if item.id in ids:
                raise ConfigError(
                    f"{place}: has the id '{item.id}', as {ids[item.id]} does; keep one of them"
                )
            if asks in questions:
                raise ConfigError(f"{place}: asks the same as {questions[asks]}; keep one of them")
            ids[item.id] = questions[asks] = place
            found.append(item)
        check_items(self.name, found)
        return tuple(found)

    def _item(self, place: str, row: Mapping[str, Any], index: int) -> BenchmarkItem:
        python = self.settings.reward is not None
        unknown = [name for name in row if name not in _KNOWN]
        if unknown and not python:
            known = ", ".join(sorted(_KNOWN))
            raise ConfigError(f"{place}: unknown field '{unknown[0]:.40}'; known are {known}")
        choices = _texts(place, row, "choices")
        facts: dict[str, Any] = {"row": dict(row)} if python else {}
        if "rewordings" in row:
            facts["rewordings"] = _texts(place, row, "rewordings")
        if "schema" in row:
            facts["schema"] = field(place, row, "schema", dict)
            check_schema(facts["schema"], place)
        item = BenchmarkItem(
            id=str(row.get("id", f"{self.name}-{index:05d}")),
            turns=self._turns(place, row, choices),
            answer=self._answer(place, row, choices),
            choices=tuple(choices) if self.mode == "choice" else (),
            cluster=str(row.get("cluster", "")),
            group=str(row.get("group", "")),
            passage=field(place, row, "passage", str) if "passage" in row else "",
            facts=facts,
            source=self._source(place, row),
        )
        try:
            item.digest  # noqa: B018 - it has a canonical form
        except CoterieError as error:
            raise ConfigError(f"{place}: {str(error).removeprefix('record: ')}") from None
        return item

    def _source(self, place: str, row: Mapping[str, Any]) -> dict[str, str]:
        source = {name: getattr(self.settings, name) for name in ("license", "source", "first_published")}
        source |= {name: str(row[name]) for name in source if row.get(name)}
        date = source["first_published"]
        if date and not DATE.fullmatch(date):
            raise ConfigError(f"{place}: 'first_published' is '{date:.40}'; give a date such as 2026-05-01")
        return {name: value for name, value in source.items() if value}

    def _turns(
        self, place: str, row: Mapping[str, Any], choices: Sequence[str]
    ) -> tuple[Mapping[str, Any], ...]:
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        if "messages" in row:
            messages = [_message(place, one) for one in field(place, row, "messages", list)]
            if not messages or messages[-1]["role"] != "user":
                raise ConfigError(f"{place}: 'messages' must end with a message of the user")
            *before, last = messages
            text = last["content"]
        else:
            before = []
            name = next((name for name in PROMPTS if name in row), PROMPTS[0])
            text = field(place, row, name, str)
        if not text.strip():
            raise ConfigError(f"{place}: the question is empty")
        passage = row.get("passage", "")
        if isinstance(passage, str) and passage and passage not in text:
            text = f"{passage}\n\n{text}"
        text = listed(text, choices) if choices else text
        return (*system, *before, {"role": "user", "content": asked(text, self.form) if self.form else text})

    def _answer(self, place: str, row: Mapping[str, Any], choices: Sequence[str]) -> Any:
        name = next((name for name in ANSWERS if name in row), None)
        answer = row[name] if name is not None else None
        if answer is None and self.settings.reward is not None:
            return f"judged by {self.settings.reward}"
        if answer is None or answer in ("", [], {}):
            raise ConfigError(f"{place}: the item has no answer; give one in the field 'answer'")
        try:
            found = self.scorer.answer(answer, choices)
        except ConfigError as error:
            raise ConfigError(f"{place}: the answer {error}") from None
        wrong = problem(found, row["schema"]) if isinstance(row.get("schema"), dict) else None
        if wrong is not None:
            raise ConfigError(f"{place}: the answer breaks its schema at {wrong}")
        return found

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """What the scorer says."""
        return self.scorer.judge(item, reply)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The scorer's right reply."""
        return self.scorer.oracle(item)

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """The user's column `rewordings`, else other frames of the question."""
        given = item.facts.get("rewordings")
        return list(given) if given else reworded(item.question, self.form) if self.form else ()

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        """The choices below the question in another order."""
        return relisted(item, order) if self.mode == "choice" else None

    def recipe(self) -> dict[str, Any]:
        """The settings: a file of items needs no other file, except for a `reward`."""
        settings = self.settings.to_dict() | {"scorer": self._scorer_name, "form": self.form}
        if self.settings.reward is not None:
            settings["reward"] = str((self._folder / self.settings.reward).resolve())
        return {"name": PREFIX + self.name, "settings": settings}


def read_own(path: Path) -> OwnBenchmark:
    """The benchmark in a YAML file, or in a JSONL file with the default settings.

    Errors: `ConfigError`, one line with the file, and the line where it is one of `data`; `TaskError` for a
    file of a reward without one.
    """
    if path.suffix in (".yaml", ".yml"):
        return OwnBenchmark(OwnSettings.from_yaml(path), path.parent)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip(".-_")[:80] or "own"
    return OwnBenchmark(OwnSettings(name=name, data=path.name), path.parent)


def _rows(path: Path) -> list[Row]:
    rows = list(read_rows(path))
    if not rows:
        raise ConfigError(f"{path}: holds no item")
    return rows


def _texts(place: str, row: Mapping[str, Any], name: str) -> list[str]:
    values = field(place, row, name, list) if name in row else []
    if name in row and (len(values) < 2 or not all(isinstance(one, str) and one for one in values)):
        raise ConfigError(f"{place}: '{name}' must be a list of at least two texts")
    if len(set(values)) != len(values):
        raise ConfigError(f"{place}: '{name}' holds the same text twice")
    return values


def _message(place: str, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ConfigError(f"{place}: 'messages' holds {message!r:.40}; give objects with role and content")
    role, content = field(place, message, "role", str), field(place, message, "content", str)
    if role not in ("system", "user", "assistant"):
        raise ConfigError(f"{place}: a message has the role '{role:.40}'; give system, user or assistant")
    return {"role": role, "content": content}
