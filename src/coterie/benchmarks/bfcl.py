"""BFCL, the Berkeley Function-Calling Leaderboard, from a copy that the user has.

Read are the categories that need no running of foreign code: questions in `BFCL_v3_CATEGORY.json`, what is
allowed in `possible_answer/BFCL_v3_CATEGORY.json`, a JSON object a line in both. Categories with
`irrelevance` in their name have no possible answer: no call is right. `multi_turn`, `exec`, `java` and
`javascript` are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.benchmarks.calls import allowed, wrong_calls
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.benchmarks.published import PublishedBenchmark, data_files
from coterie.benchmarks.rows import Row, field, read_rows
from coterie.config import ConfigError

_SKIPPED = ("multi_turn", "exec", "java", "rest", "sql", "chatable", "memory", "web_search", "format")
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_NONE = "no call"


class Bfcl(PublishedBenchmark):
    """Calls compared as syntax trees. Groups and clusters are the categories."""

    name = "bfcl"
    says = "BFCL from a copy of yours: BFCL_v3_*.json with possible_answer/"
    cluster_key = "category"
    guessable = 1.0  # no call is right where nothing fits, and is never right elsewhere
    exclusive = False
    origin = ("Apache-2.0", "gorilla-llm/Berkeley-Function-Calling-Leaderboard", "2024-02-26")

    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """A category's file, or a folder of them."""
        files = data_files(path, "BFCL_*.json")
        files = [file for file in files if file.parent.name != "possible_answer"]
        chosen = [file for file in files if not any(part in file.stem for part in _SKIPPED)]
        if not chosen:
            raise ConfigError(
                f"{path}: holds no category that can be judged; left out: {', '.join(_SKIPPED)}"
            )
        for file in chosen:
            yield from self._category(file)

    def _category(self, file: Path) -> Iterator[BenchmarkItem]:
        category = file.stem.split("_", 2)[-1]
        right: dict[str, Row] = {}
        answers = file.parent / "possible_answer" / file.name
        if "irrelevance" not in category:
            right = {field(place, row, "id", str): (place, row) for place, row in _lines(answers)}
        for place, row in _lines(file):
            name = field(place, row, "id", str)
            if right and name not in right:
                raise ConfigError(f"{place}: {answers} has no answer to '{name:.60}'")
            wanted = field(*right[name], "ground_truth", list) if right else []
            turns = row.get("question")
            turns = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], list) else turns
            if not isinstance(turns, list) or not turns:
                raise ConfigError(f"{place}: 'question' holds no message")
            functions = row.get("function")
            functions = functions if isinstance(functions, list) else [functions]
            yield BenchmarkItem(
                id=name,
                turns=tuple(turns),
                answer=wanted or _NONE,
                cluster=category,
                group=category,
                tools=tuple(_tool(place, one) for one in functions),
                source=self.source(),
            )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Right where the calls are one set of those that are allowed, in any order."""
        shown = ", ".join(str(call.get("name", "")) for call in reply.calls)[:200] or None
        if item.answer == _NONE:
            return ItemVerdict(float(not reply.calls), shown, why="it calls a tool" if reply.calls else "")
        calls = [{**call, "name": _plain_name(call.get("name"))} for call in reply.calls]
        wanted = [{_plain_name(name): values for name, values in one.items()} for one in item.answer]
        why = wrong_calls(calls, wanted, allowed, ordered=False)
        return ItemVerdict(float(not why), shown, unparsed=not reply.calls, why=why)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The first allowed value of each argument."""
        if item.answer == _NONE:
            return ItemReply(text="None of the functions can do that.")
        return ItemReply(calls=tuple(_first(one) for one in item.answer))


def _plain_name(name: Any) -> str:
    """The form of a name that every API takes: BFCL's names have dots, which some do not allow."""
    return str(name).replace(".", "_")


def _first(wanted: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    ((name, values),) = wanted.items()
    given = {argument: _value(known[0]) for argument, known in values.items() if known and known[0] != ""}
    return {"name": _plain_name(name), "arguments": given}


def _value(known: Any) -> Any:
    """A value of an object is a list of those that are allowed."""
    if isinstance(known, Mapping):
        return {
            key: _value(one[0] if isinstance(one, list) else one)
            for key, one in known.items()
            if not (isinstance(one, list) and "" in one)
        }
    return [_value(one) for one in known] if isinstance(known, list) else known


def _lines(path: Path) -> Iterator[Row]:
    """A JSON object a line, whatever the file's name says. Errors: `ConfigError`."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; BFCL keeps what is allowed there")
    return read_rows(path, lines=True)


def _tool(place: str, function: Any) -> dict[str, Any]:
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"{place}: 'function' holds no function with a name")
    parameters = _schema(function.get("parameters") or {"type": "object", "properties": {}})
    described = str(function.get("description", ""))
    said = {"name": _plain_name(function["name"]), "description": described, "parameters": parameters}
    return {"type": "function", "function": said}


def _schema(schema: Any) -> Any:
    """Python's names of types as JSON schema has them."""
    if isinstance(schema, list):
        return [_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _schema(value) for key, value in schema.items()}
    if isinstance(found.get("type"), str):
        found["type"] = _TYPES.get(found["type"].lower(), found["type"].lower())
    return found
