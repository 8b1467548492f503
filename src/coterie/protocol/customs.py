"""Custom tools: the model writes a function with one argument, the client receives that argument as text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from coterie.hosting.constraints.regular import pattern_of
from coterie.hosting.constraints.schemas import bad, check_pattern, refusal
from coterie.protocol.tool_bodies import CUSTOM_INPUT, CustomTool
from coterie.text.replies import CallPart, Delta, NumberedCall

_BEGUN = re.compile(r'\s*\{\s*"input"\s*:\s*("(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')
MOST = 16 * 1024  # characters of a grammar


def bound(tool: CustomTool, at: int, exact: bool) -> tuple[dict[str, Any], str | None]:
    """A custom tool as `Grammars` takes it, and the name of its format when that is not enforced.

    `at`: its place among the tools. `exact`: what cannot be enforced is refused.
    Errors: `ApiError` 400 `invalid_schema`.
    """
    given = tool.custom.format
    made = {**tool.function.model_dump(exclude_none=True), "pointer": f"/tools/{at}/custom/format"}
    if given is None or given.type == "text":
        return made, None
    pointer = f"/tools/{at}/custom/format/grammar"
    if given.grammar is None:
        raise bad(pointer, "is missing")
    syntax, definition = given.grammar.syntax, given.grammar.definition
    if len(definition) > MOST:
        raise bad(f"{pointer}/definition", f"is larger than {MOST} characters")
    pattern = definition if syntax == "regex" else pattern_of(definition)
    why = "rules that call themselves, %ignore and large grammars cannot be enforced in the input of a tool"
    if pattern is not None:
        text = {"type": "string", "pattern": f"^(?:{pattern})$"}
        check_pattern(text["pattern"], f"{pointer}/definition")
        why = refusal(text)
        if not why:
            schema = {**made["parameters"], "properties": {CUSTOM_INPUT: text}}
            return {**made, "parameters": schema, "strict": True}, None
    if exact:
        raise bad(f"{pointer}/definition", why)
    return made, f"tools/{at}/custom/format"


class CustomCalls:
    """Turns the calls of custom tools in one reply: their arguments become the input, as a whole."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._indexes: set[int] = set()

    def turned(self, delta: Delta) -> Delta:
        """The delta with custom calls as such: one part, whose `arguments` are the input, and `custom`."""
        if not self._names or not (delta.parts or delta.calls):
            return delta
        turned = Delta(delta.reasoning, delta.content)
        for part, ended in delta.written():
            if part is not None and part.name in self._names:
                self._indexes.add(part.index)
            index = part.index if part is not None else ended.index if ended is not None else -1
            if index not in self._indexes:
                turned.parts += [] if part is None else [part]
                turned.calls += [] if ended is None else [ended]
            elif ended is not None:
                text = input_of(ended)
                turned.parts.append(CallPart(index, ended.id, ended.call.name, text, custom=True))
                turned.calls.append(replace(ended, arguments=text, custom=True))
        return turned


def input_of(call: NumberedCall) -> str:
    """The input of a custom call; as far as it was written, where it was cut off."""
    given: Mapping[str, Any] = dict(call.call.arguments)
    if isinstance(given.get(CUSTOM_INPUT), str):
        return str(given[CUSTOM_INPUT])
    begun = _BEGUN.match(call.arguments)
    try:
        return str(json.loads(begun[1] + '"')) if begun is not None else call.arguments
    except ValueError:
        return call.arguments
