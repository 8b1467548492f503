"""Published test sets that the user has on disk, in their published layout; none comes with coterie.

GSM8K, MMLU, HumanEval, IFEval and BFCL. `gsm8k:PATH` names the benchmark and the file or folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from coterie.benchmarks.answers import FORM, asked, reworded, strict_and_lenient
from coterie.benchmarks.checks import CHECKS, NEEDED
from coterie.benchmarks.instructions import obedient, verdict_on
from coterie.benchmarks.item import (
    Benchmark,
    BenchmarkItem,
    ItemReply,
    ItemVerdict,
    choice_verdict,
)
from coterie.benchmarks.rows import field, read_rows, read_table
from coterie.benchmarks.scorers import likeliest
from coterie.config import ConfigError, Settings
from coterie.primer.base import Rng
from coterie.tasks.own import plain_number, published_answer

_LETTERS = "ABCDEFGHIJ"
_ROWS = {".jsonl", ".json", ".parquet", ".gz"}


class PublishedSettings(Settings):
    """`n`: how many items, drawn at random by `seed` (default: all)."""

    n: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)


class PublishedBenchmark(Benchmark):
    """Items of a file in a published layout. The file is read when the items are first asked for.

    A question that stands there twice, as some do in published files, stays: both are one cluster.
    """

    settings_type: ClassVar[type[PublishedSettings]] = PublishedSettings
    published = True
    origin: ClassVar[tuple[str, str, str]]  # license, source, first published

    def __init__(self, path: str, settings: PublishedSettings | None = None) -> None:
        self.path, self.settings = Path(path).expanduser(), settings or self.settings_type()

    @abstractmethod
    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """All items. Errors: `ConfigError` with file and line."""

    def items(self) -> Sequence[BenchmarkItem]:
        """The items in the file's order, or `n` of them. Errors: `ConfigError`, one line."""
        return self._items

    @cached_property
    def _items(self) -> tuple[BenchmarkItem, ...]:
        found: list[BenchmarkItem] = []
        first: dict[str, str] = {}
        for item in self.read(self.path):
            before = first.setdefault(item.question, item.id)
            found.append(item if item.cluster else replace(item, cluster=before))
        if not found:
            raise ConfigError(f"{self.path}: holds no item")
        n = self.settings.n
        if n is None or n >= len(found):
            return tuple(found)
        chosen = sorted(Rng("published", self.name, self.settings.seed).sample(range(len(found)), n))
        return tuple(found[place] for place in chosen)

    def recipe(self) -> dict[str, Any]:
        """Name with the path, and settings."""
        return {"name": f"{self.name}:{self.path}", "settings": self.settings.to_dict()}

    def source(self) -> dict[str, str]:
        """Where the items come from."""
        names = ("license", "source", "first_published")
        return dict(zip(names, self.origin, strict=True))


def data_files(path: Path, pattern: str = "*") -> list[Path]:
    """The file, or the files of a folder that match. Errors: `ConfigError` where there is none."""
    if "://" in str(path):
        raise ConfigError(f"{path}: needs the network; fetch it first and name the file or folder")
    files = sorted(path.rglob(pattern)) if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ConfigError(f"{path}: there is no such file, or no {pattern} in the folder")
    return files


class Gsm8k(PublishedBenchmark):
    """Grade-school word problems (arXiv 2110.14168): `question`, `answer` that ends in `#### 72`."""

    name = "gsm8k"
    says = "GSM8K from a copy of yours: JSONL or Parquet with question and answer"
    origin = ("MIT", "openai/gsm8k", "2021-10-27")
    max_tokens = 512

    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """A row is a question and a worked answer."""
        for place, row in read_rows(path):
            answer = published_answer(field(place, row, "answer", str)).replace(",", "")
            if plain_number(answer) is None:
                raise ConfigError(f"{place}: 'answer' does not end in a number behind ####")
            question = field(place, row, "question", str).strip()
            turn = {"role": "user", "content": asked(question, FORM)}
            yield BenchmarkItem(place_id("gsm8k", place), (turn,), answer, source=self.source())

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The number behind `Answer:`; lenient: behind `####`, or the last one."""
        wanted = plain_number(item.answer)
        text = reply.text.replace("####", "answer:")
        verdict = strict_and_lenient(item, text, lambda found: plain_number(found.lstrip("$")) == wanted)
        return verdict

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The number in its line."""
        return ItemReply(text=f"Answer: {item.answer}")

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """Other frames of the question."""
        return reworded(item.question, FORM)


class Mmlu(PublishedBenchmark):
    """Four choices in 57 subjects (arXiv 2009.03300), as CSV without a head or as rows of the hub.

    The choices are shown with letters, and the letters are weighed.
    """

    name = "mmlu"
    says = "MMLU from a copy of yours: CSV per subject, or rows with question, choices and answer"
    mode = "choice"
    cluster_key = "subject"
    origin = ("MIT", "hendrycks/test", "2020-09-07")

    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """A file, or a folder of files such as `test/anatomy_test.csv`."""
        files = data_files(path)
        tables = [file for file in files if file.suffix == ".csv"]
        for file in tables or [file for file in files if file.suffix in _ROWS]:
            subject = file.stem.removesuffix("_test").removesuffix("_val").removesuffix("_dev")
            if file.suffix == ".csv":
                for place, cells in read_table(file, 6):
                    yield self._item(place, subject, cells[0], cells[1:5], cells[5].strip())
                continue
            for place, row in read_rows(file):
                choices = field(place, row, "choices", list)
                named = row["subject"] if isinstance(row.get("subject"), str) else subject
                yield self._item(place, named, field(place, row, "question", str), choices, row.get("answer"))

    def _item(
        self, place: str, subject: str, question: str, choices: Sequence[str], answer: Any
    ) -> BenchmarkItem:
        letters = _LETTERS[: len(choices)]
        index = letters.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
            raise ConfigError(
                f"{place}: the answer is {answer!r:.40}; one of {', '.join(letters)} or 0 to "
                f"{len(choices) - 1} was expected"
            )
        shown = _lettered(choices)
        said = "\n".join([question.strip(), shown, "Reply with the letter of the right choice."])
        return BenchmarkItem(
            id=place_id(subject, place),
            turns=({"role": "user", "content": said},),
            answer=index,
            choices=tuple(letters),
            cluster=subject,
            group=subject,
            facts={"options": list(choices)},
            source=self.source(),
        )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The letter with the highest log-probability."""
        return choice_verdict(item, reply)

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        """The choices behind other letters."""
        options: list[str] = item.facts["options"]
        moved = [options[place] for place in order]
        question = item.question.replace(_lettered(options), _lettered(moved), 1)
        return replace(
            item,
            turns=({"role": "user", "content": question},),
            answer=list(order).index(item.answer),
            facts={**item.facts, "options": moved},
        )

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """All probability on the answer's letter."""
        return likeliest(item)


def _lettered(choices: Sequence[str]) -> str:
    letters = _LETTERS[: len(choices)]
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))


class IfEval(PublishedBenchmark):
    """Prompts with instructions that a program can check (arXiv 2311.07911): `input_data.jsonl`.

    `checks.CHECKS` decides; it says where it may differ from the published program.
    """

    name = "ifeval"
    says = "IFEval from a copy of yours: input_data.jsonl"
    exclusive = False
    guessable = 0.35
    max_tokens = 1280
    origin = ("Apache-2.0", "google/IFEval", "2023-11-14")

    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """A row: `key`, `prompt`, `instruction_id_list`, `kwargs`."""
        for place, row in read_rows(path):
            names = field(place, row, "instruction_id_list", list)
            given = field(place, row, "kwargs", list)
            if len(names) != len(given) or not names:
                raise ConfigError(f"{place}: {len(names)} instructions and {len(given)} kwargs")
            checks = [_check(place, name, arguments) for name, arguments in zip(names, given, strict=True)]
            key = row.get("key", place.rpartition(":")[2])
            yield BenchmarkItem(
                id=f"ifeval-{key}",
                turns=({"role": "user", "content": field(place, row, "prompt", str)},),
                answer="all instructions",
                group="one" if len(checks) == 1 else "several",
                facts={"checks": checks},
                source=self.source(),
            )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Strict: all instructions. Lenient: the published loose forms of the reply."""
        return verdict_on(reply.text, item.facts["checks"])

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """A reply put together from the instructions, where that works."""
        try:
            reply = ItemReply(text=obedient(item.facts["checks"]))
        except (KeyError, TypeError, ValueError):
            return None
        return reply if self.judge(item, reply).right else None


def _check(place: str, name: Any, arguments: Any) -> list[Any]:
    if name not in CHECKS:
        raise ConfigError(f"{place}: unknown instruction '{name!s:.60}'; known are {', '.join(CHECKS)}")
    known = {key: value for key, value in dict(arguments or {}).items() if value is not None}
    missing = [key for key in NEEDED.get(name, ()) if key not in known]
    if missing:
        raise ConfigError(f"{place}: {name} has no '{missing[0]}'")
    return [name, known]


def place_id(name: str, place: str) -> str:
    """An id from the row's place: the name and the number of the line."""
    return f"{name}-{place.rpartition(':')[2]}"
