"""What a request demands of its reply: a call of certain tools, or JSON of a schema.

`Demand.of(body)` reads the fields `tools`, `tool_choice` and `response_format`; `filter` makes the grammar.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from coterie.hosting.constraints.checks import verdict
from coterie.hosting.constraints.grammar import GrammarFilter, Grammars
from coterie.hosting.constraints.schemas import matters
from coterie.hosting.errors import invalid
from coterie.protocol.customs import bound
from coterie.protocol.requests import ChatRequest
from coterie.protocol.structured import Structure, structure_of
from coterie.protocol.tool_bodies import AllowedChoice, CustomChoice, CustomTool, NamedChoice
from coterie.text.messages import Message

_NAMED = 16  # pointers to unenforced keywords in a header
_WAIT = 10.0  # seconds for the check of a reply
_CHECKERS = ThreadPoolExecutor(2, "coterie-schema")


@dataclass(frozen=True)
class Demand:
    """`mode`: `none` (no calls), `auto`, `required` (one call or several), `one` (exactly one).

    `tools`: those that may be called, as `Grammars` takes them. `limited`: others are shown to the model.
    `form`: the format of an answer; None for free text. `exact`: every schema is enforced in full or refused.
    `ignored`: fields without effect. `customs`: the names of custom tools.
    """

    mode: Literal["none", "auto", "required", "one"]
    tools: tuple[Mapping[str, Any], ...]
    limited: bool
    form: Structure | None
    parallel: bool
    exact: bool = False
    ignored: tuple[str, ...] = ()
    customs: frozenset[str] = frozenset()

    @staticmethod
    def of(body: ChatRequest, exact: bool = False) -> Demand:
        """Read the fields of a request. Errors: `ApiError` 400 for fields that contradict one another."""
        names = [tool.function.name for tool in body.tools or ()]
        if len(set(names)) != len(names):
            raise invalid("/tools: two tools have one name", "/tools")
        mode, wanted = _choice(body, names)
        form = structure_of(body)
        forced = mode in ("required", "one")
        tools, unbound = _tools(body, lambda name: exact or (forced and (wanted is None or name in wanted)))
        ignored = tuple(unbound) if mode != "none" else ()
        if forced and form is not None:
            if not form.pointer.startswith("/response_format"):
                raise invalid(f"{form.pointer}: cannot go with a tool that must be called", form.pointer)
            # OpenAI takes both; a call has no other format.
            ignored, form = (*ignored, "response_format"), None
        called = tuple(tool for tool in tools if wanted is None or tool["name"] in wanted)
        limited, parallel = len(called) < len(tools), body.parallel_tool_calls is not False
        customs = frozenset(tool.function.name for tool in body.tools or () if isinstance(tool, CustomTool))
        shown = () if mode == "none" else called
        return Demand(mode, shown, limited, form, parallel, exact, ignored, customs)

    def filter(self, grammars: Grammars, opened: bool) -> GrammarFilter | None:
        """The grammar that constrains the reply. Errors: `ApiError` 400 for a schema that is refused."""
        # OpenAI: a function without parameters has none.
        tools = [{"parameters": {"type": "object", "properties": {}}, **tool} for tool in self.tools]
        bound = [{**tool, "strict": self.exact or tool.get("strict")} for tool in tools]
        if self.mode in ("required", "one"):
            return grammars.of_calls(bound, self.mode == "required" and self.parallel, opened)
        if self.form is not None:
            return self.form.filter(grammars, opened, bound, self.exact)
        if self.tools and (self.limited or any(tool.get("strict") for tool in tools)):
            plain = [tool if tool.get("strict") else {"name": tool["name"]} for tool in tools]
            return grammars.of_strict_calls(plain, opened)
        return None

    def check(self, kept: GrammarFilter | None) -> SchemaCheck | None:
        """The check of a finished reply, for what its grammar does not enforce."""
        left = [pointer for pointer in kept.unenforced if matters(pointer)] if kept is not None else []
        schemas: dict[str, tuple[str, Mapping[str, Any]]] = {}
        if self.form is not None and self.form.kind == "json":
            schemas[""] = (self.form.pointer, self.form.value)
        schemas |= {tool["name"]: (tool["pointer"], tool.get("parameters", {})) for tool in self.tools}
        found = {name: (place, schema) for name, (place, schema) in schemas.items()
                 if any(pointer.startswith(place) for pointer in left)}  # fmt: skip
        return SchemaCheck(found) if found else None


@dataclass(frozen=True)
class SchemaCheck:
    """Schemas that grammars enforce in part: tool name ("": the answer) -> pointer and schema."""

    schemas: Mapping[str, tuple[str, Mapping[str, Any]]]

    async def of(self, message: Message) -> str | None:
        """What became of these schemas in a whole reply; None when it has nothing of theirs.

        `satisfied`, `violated: POINTER why` or `unchecked: why`.
        """
        found = [(*self.schemas[""], message.text)] if "" in self.schemas and not message.tool_calls else []
        found += [(*self.schemas[call.name], json.dumps(dict(call.arguments)))
                  for call in message.tool_calls if call.name in self.schemas]  # fmt: skip
        if not found:
            return None
        checking = asyncio.get_running_loop().run_in_executor(_CHECKERS, verdict, found)
        try:
            return await asyncio.wait_for(checking, _WAIT)
        except TimeoutError:
            return "unchecked: too many replies were waiting to be checked"


def shown_tools(body: ChatRequest) -> list[dict[str, Any]]:
    """The tools as the template is given them, custom ones as functions."""
    functions = [tool.function.model_dump(exclude_none=True) for tool in body.tools or ()]
    return [{"type": "function", "function": function} for function in functions]


def names_of(pointers: tuple[str, ...]) -> tuple[str, ...]:
    """Pointers as `x-coterie-ignored` names them: percent-encoded, and not too many for a header."""
    names = tuple(quote(pointer, safe="/~$") for pointer in pointers[:_NAMED])
    return names if len(pointers) <= _NAMED else (*names, f"and {len(pointers) - _NAMED} more")


def _tools(body: ChatRequest, exact: Callable[[str], bool]) -> tuple[list[dict[str, Any]], list[str]]:
    """The tools as `Grammars` takes them, and the names of formats that are not enforced.

    `exact`: whether the format of the tool of a name is enforced or refused.
    """
    tools: list[dict[str, Any]] = []
    unbound: list[str] = []
    for at, tool in enumerate(body.tools or ()):
        if isinstance(tool, CustomTool):
            made, name = bound(tool, at, exact(tool.custom.name))
            tools.append(made)
            unbound += [] if name is None else [name]
        else:
            plain = tool.function.model_dump(exclude_none=True)
            tools.append({**plain, "pointer": f"/tools/{at}/function/parameters"})
    return tools, unbound


def _choice(
    body: ChatRequest, names: list[str]
) -> tuple[Literal["none", "auto", "required", "one"], set[str] | None]:
    """The mode, and the names that `tool_choice` gives. Errors: `ApiError` 400."""
    choice = body.tool_choice
    if isinstance(choice, NamedChoice):
        _known(choice.function.name, names, "/tool_choice/function/name")
        return "one", {choice.function.name}  # OpenAI: exactly one call
    if isinstance(choice, CustomChoice):
        _known(choice.custom.name, names, "/tool_choice/custom/name")
        return "one", {choice.custom.name}
    if isinstance(choice, AllowedChoice):
        wanted = []
        for at, tool in enumerate(choice.allowed_tools.tools):
            name = tool.function.name if isinstance(tool, NamedChoice) else tool.custom.name
            _known(name, names, f"/tool_choice/allowed_tools/tools/{at}/{tool.type}/name")
            wanted.append(name)
        return choice.allowed_tools.mode, {*wanted}
    if choice == "required" and not names:
        raise invalid("/tool_choice: 'required' needs tools", "/tool_choice")
    return choice or "auto", None


def _known(name: str, names: list[str], pointer: str) -> None:
    if name not in names:
        raise invalid(f"{pointer}: is none of the tools", pointer)
