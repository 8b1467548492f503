"""Calls of tools read from a whole region of a reply: JSON, Python's notation, names before arguments."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import ToolCall, read_call

# What reading text that is no call may raise.
_NO_CALL = (ValueError, SyntaxError, DataError, RecursionError, MemoryError)
_TRIES = 50  # places at which a call that was cut off is tried as if it had ended there


def read_calls(part: str, ways: tuple[str, ...], text: str) -> list[ToolCall]:
    """The calls in a region, by the first way of `ways` that can read it; else none.

    `part`: `to=NAME` for a region that holds the arguments of one call alone.
    """
    name = part.removeprefix("to=") if part.startswith("to=") else ""
    for way in ways:
        try:
            calls = [read_call({"name": name, "arguments": text})] if way == "named" else _READERS[way](text)
        except _NO_CALL:
            continue
        if calls:
            return calls
    return []


def call_of(name: str, arguments: str) -> ToolCall | None:
    """A call from the text of its arguments; None if that is not a JSON object."""
    try:
        return read_call({"name": name, "arguments": arguments})
    except _NO_CALL:
        return None


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text, which UTF-8 can write."""
    text = json.dumps(dict(call.arguments), ensure_ascii=False)
    return json.dumps(dict(call.arguments)) if re.search("[\ud800-\udfff]", text) else text


def read_cut(ways: tuple[str, ...], text: str) -> list[tuple[ToolCall, bool]] | None:
    """The calls of a region in Python's notation that was cut off, and whether each is complete.

    The last one has the arguments that were complete. None for text that does not begin as calls do.
    """
    if "pythonic" not in ways or not re.match(r"\s*\[?\s*([A-Za-z_][\w.]*\s*)?(\(|$)", text):
        return None
    end = "]" if text.lstrip().startswith("[") else ""
    places = [found.start() for found in re.finditer(r"[(,)]", text)]
    for place in reversed(places[-_TRIES:]):
        complete = text[place] == ")"
        kept = text[: place + 1] if text[place] != "," else text[:place]
        try:
            calls = _read_pythonic(kept + ("" if complete else ")") + end)
        except _NO_CALL:
            continue
        return [(call, complete or number < len(calls)) for number, call in enumerate(calls, 1)]
    return None if places else []


def _read_json(text: str) -> list[ToolCall]:
    """One object or several (as a list, or one after another), each with a name and perhaps arguments."""
    return [read_call(value) for value in _values(text)]


def _read_bare(text: str) -> list[ToolCall]:
    """As `json`, but as an answer may be JSON too, a call needs a name and arguments."""
    values = _values(text)
    for value in values:
        if not isinstance(value, Mapping) or not value.keys() & {"arguments", "parameters", "function"}:
            raise DataError("no call")
    return [read_call(value) for value in values]


def _values(text: str) -> list[Any]:
    decoder, at, found = json.JSONDecoder(), 0, []
    text = text.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found += value if isinstance(value, list) else [value]
        while at < len(text) and text[at] in "; ,\n\r\t":
            at += 1
    return found


def _read_pythonic(text: str) -> list[ToolCall]:
    """`[f(a=1), g(b="x")]`, values as literals (also true, false and null)."""
    tree = ast.parse(text.strip(), mode="eval").body
    calls = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_pythonic_call(call) for call in calls]


def _pythonic_call(call: ast.expr) -> ToolCall:
    if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
        raise DataError("no call")
    arguments = {str(word.arg): ast.literal_eval(_LiteralNames().visit(word.value)) for word in call.keywords}
    return ToolCall(ast.unparse(call.func), json.loads(json.dumps(arguments)))


class _LiteralNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        names = {"true": True, "false": False, "null": None}
        return ast.Constant(names[node.id]) if node.id in names else node


def _read_separated(mark: str, begin: str, end: str) -> Callable[[str], list[ToolCall]]:
    """A reader of calls NAME `mark` ARGUMENTS, each between `begin` and `end`; the JSON may be fenced."""

    def read(text: str) -> list[ToolCall]:
        calls = []
        for piece in filter(str.strip, re.split("|".join(map(re.escape, filter(None, (begin, end)))), text)):
            name, found, arguments = piece.strip().removeprefix("function" + mark).partition(mark)
            if not found:
                name, found, arguments = name.partition("\n")
            arguments = re.sub(r"^\s*```(?:json)?\s*\n(.*)\n\s*```\s*$", r"\1", arguments, flags=re.DOTALL)
            calls.append(read_call({"name": name.strip() if found else "", "arguments": arguments}))
        return calls

    return read


_READERS: dict[str, Callable[[str], list[ToolCall]]] = {
    "json": _read_json,
    "bare": _read_bare,
    "pythonic": _read_pythonic,
    "args": _read_separated("[ARGS]", "[TOOL_CALLS]", ""),
    "sep": _read_separated("<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
}
