"""A user's own task: one file, Python with `reward(task, reply)`, or JSONL with an answer column.

The Python file is the user's own program and runs in this process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from coterie.config.errors import ConfigError
from coterie.config.json_text import JsonError, parse_json
from coterie.primer.base import Rng
from coterie.tasks.answers import final_answer
from coterie.tasks.problem import Split, TaskError, TaskFamily, TaskProblem, TaskVerdict

PROMPTS = ("prompt", "question", "problem", "instruction", "input")
ANSWERS = ("answer", "solution", "target", "label", "output")
_MOST = 100_000  # problems that are read

Reward = Callable[[Mapping[str, Any], str], Any]


class OwnTask(TaskFamily):
    """Problems from a file. All are of level 0; one in 16 is for `val` and one for `test`, as everywhere."""

    says = "a task of one's own"
    levels = (0,)

    def __init__(
        self, path: Path, rows: list[Mapping[str, Any]], reward: Reward | None, version: int
    ) -> None:
        self.name = path.stem  # type: ignore[misc]
        self.version = version  # type: ignore[misc]
        self.path = path
        self._reward = reward
        self._by_split: dict[str, list[TaskProblem]] = {}
        for number, row in enumerate(rows, 1):
            problem = self._problem(row, number)
            self._by_split.setdefault(problem.split, []).append(problem)
        if not self._by_split.get("train"):
            raise TaskError(f"{path}: there is no problem to train on; give at least a few dozen")

    def _problem(self, row: Mapping[str, Any], number: int) -> TaskProblem:
        prompt = next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None)
        if not prompt:
            raise TaskError(
                f"{self.path}: problem {number}: it has no prompt; name one of {', '.join(PROMPTS)}"
            )
        answer = next((row[name] for name in ANSWERS if name in row), None)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | type(None)):
            raise TaskError(f"{self.path}: problem {number}: its answer is neither a text nor a number")
        if self._reward is None and (answer is None or not str(answer).strip()):
            raise TaskError(
                f"{self.path}: problem {number}: it has no answer; name one of {', '.join(ANSWERS)}"
            )
        text = "" if answer is None else published_answer(str(answer))
        steps = row.get("steps", "")
        return TaskProblem(self.name, 0, prompt, text, steps if isinstance(steps, str) else "", dict(row))

    def count(self, split: Split) -> int:
        """How many problems a split has."""
        return len(self._by_split.get(split, []))

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Not used: the problems are those of the file."""
        return rng.pick(self._by_split["train"])

    def problem(self, level: int, index: int, split: Split = "train", seed: int = 0) -> TaskProblem:
        """The problems of the split in an order that depends on the seed, again and again."""
        if level not in self.levels:
            raise ConfigError(
                f"task {self.name}: there is no level {level}; the problems of a file have level 0"
            )
        here = self._by_split.get(split, [])
        if not here:
            raise TaskError(
                f"task {self.name}: no problem of {self.path} falls into the split {split}; give more"
            )
        turn, place = divmod(index, len(here))
        return Rng("own task", seed, turn).shuffled(here)[place]

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        """What `reward` says, or whether the answer behind `Answer:` is that of the file."""
        if self._reward is None:
            return super().judge(problem, reply)
        return rewarded(self._reward, self.path.name, problem.facts, reply)

    def equal(self, problem: TaskProblem, found: str) -> bool:
        """The same text, or the same number."""
        return found == problem.answer or (
            plain_number(found) is not None and plain_number(found) == plain_number(problem.answer)
        )

    def oracle(self, problem: TaskProblem) -> str:
        """The row's `reply` where it has one, else its answer in the one form."""
        reply = problem.facts.get("reply")
        return reply if isinstance(reply, str) else f"Answer: {problem.answer}"

    def candidates(self, problem: TaskProblem) -> list[str]:
        """Answers of other rows."""
        return [one.answer for one in self._by_split["train"][:10]]


def rewarded(reward: Reward, file: str, row: Mapping[str, Any], reply: str) -> TaskVerdict:
    """What a user's `reward` says of a reply; a failed verdict where it raises or gives no reward."""
    try:
        given = reward(dict(row), reply)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return TaskVerdict({}, None, f"{file}: reward raised {said:.160}", failed=True)
    parts = given if isinstance(given, Mapping) else {"right": given}
    why = next((fault for name, value in parts.items() if (fault := _no_reward(name, value))), "")
    if why:
        return TaskVerdict({}, None, f"{file}: {why}", failed=True)
    return TaskVerdict({str(name): float(value) for name, value in parts.items()})


def _no_reward(name: Any, value: Any) -> str:
    if isinstance(value, bool):
        return ""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return f"reward gave {value!r:.60} for '{name}'; give a number from 0 to 1"
    return "" if 0 <= value <= 1 else f"reward gave {value:.6g} for '{name}'; rewards are from 0 to 1"


def published_answer(answer: str) -> str:
    """The answer of a published row: what stands behind `####` (GSM8K) or `Answer:`, else all of it."""
    behind = answer.rpartition("####")[2] if "####" in answer else (final_answer(answer) or answer)
    return behind.strip()


def plain_number(text: str) -> float | None:
    """A plain decimal number, also with commas between thousands."""
    plain = text.replace(",", "")
    if not plain.isascii() or len(plain) > 40 or plain.strip("-.0123456789"):
        return None
    try:
        return float(plain)
    except ValueError:
        return None


def read_task(path: Path) -> OwnTask:
    """The task in a `.py`, `.json` or `.jsonl` file. Errors: `TaskError`, one line."""
    if not path.is_file():
        raise TaskError(f"{path}: there is no such file of a task")
    version = int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:4], "big")
    if path.suffix != ".py":
        return OwnTask(path, list(_rows(path)), None, version)
    module = _module(path)
    reward, problems = _reward(path, module), getattr(module, "tasks", None)
    if isinstance(problems, str):
        rows = list(_rows(path.parent / problems))
    elif callable(problems):
        rows = _called(path, problems)
    else:
        raise TaskError(
            f"{path}: it defines no tasks: a function that yields dictionaries, or the name of a file"
        )
    return OwnTask(path, rows, reward, version)


def read_reward(path: Path) -> Reward:
    """The function `reward` of a Python file. Errors: `TaskError` for a file without one."""
    if not path.is_file():
        raise TaskError(f"{path}: there is no such file of a reward")
    return _reward(path, _module(path))


def _reward(path: Path, module: Any) -> Reward:
    reward = getattr(module, "reward", None)
    if not callable(reward):
        raise TaskError(f"{path}: it defines no function reward(task, reply)")
    return cast(Reward, reward)


def _called(path: Path, problems: Callable[[], Any]) -> list[Mapping[str, Any]]:
    try:
        rows = list(itertools.islice(problems(), _MOST))
    except Exception as error:
        raise TaskError(f"{path}: tasks() raised {type(error).__name__}: {error}"[:300]) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TaskError(
                f"{path}: tasks() gave a {type(row).__name__} as problem {number}; give dictionaries"
            )
    return rows


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"coterie_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"{path}: it cannot be loaded: {said:.200}") from None
    return module


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise TaskError(f"{path}: there is no such file of problems")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: it cannot be read: {error}"[:300]) from None
    for number, line in enumerate(lines[:_MOST], 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except JsonError as error:
            raise TaskError(f"{path}:{number}: it is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise TaskError(f"{path}:{number}: it is not an object; give one with a prompt and an answer")
        yield row
