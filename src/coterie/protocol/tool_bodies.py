"""Tools in requests: their definitions, calls of them in the history, and the choice among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from coterie.protocol.body import Body, Name, Text

MAX_TOOLS = 1024


def _kind(given: Any) -> str:
    """Which form a tool or call has; the names are no keys of either, which errors point to."""
    kind = given.get("type") if isinstance(given, Mapping) else getattr(given, "type", None)
    return "a custom tool" if kind == "custom" else "a function"


BY_TYPE = Discriminator(_kind)
CUSTOM_INPUT = "input"  # the one argument of a custom tool
ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.-]+$")]


class FunctionCall(Body):
    """Name and arguments (JSON text) of a call."""

    place = "messages.tool_calls.function"
    name: Name
    arguments: Text = "{}"


class ToolCallItem(Body):
    """A call in an assistant's turn."""

    place = "messages.tool_calls"
    id: Name | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class CustomCall(Body):
    """Name and input (any text) of a call of a custom tool."""

    place = "messages.tool_calls.custom"
    name: Name
    input: Text


class CustomCallItem(Body):
    """A call of a custom tool in an assistant's turn."""

    place = "messages.tool_calls"
    id: Name | None = None
    type: Literal["custom"]
    custom: CustomCall

    @property
    def function(self) -> FunctionCall:
        """The call as the model writes it: of a function with one argument."""
        arguments = json.dumps({CUSTOM_INPUT: self.custom.input}, ensure_ascii=False)
        return FunctionCall(name=self.custom.name, arguments=arguments)


_Call = Annotated[ToolCallItem, Tag("a function")] | Annotated[CustomCallItem, Tag("a custom tool")]
AnyCall = Annotated[_Call, BY_TYPE]


class FunctionSpec(Body):
    """A tool that the model may call."""

    place = "tools.function"
    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    """`{"type": "function", "function": ...}`."""

    place = "tools"
    type: Literal["function"]
    function: FunctionSpec


class CustomGrammar(Body):
    """The form of a custom tool's input."""

    syntax: Literal["lark", "regex"]
    definition: Text


class CustomFormat(Body):
    """`custom.format`."""

    type: Literal["text", "grammar"]
    grammar: CustomGrammar | None = None


class CustomSpec(Body):
    """A tool whose input is text."""

    place = "tools.custom"
    name: ToolName
    description: Text | None = None
    format: CustomFormat | None = None


class CustomTool(Body):
    """`{"type": "custom", "custom": ...}`."""

    place = "tools"
    type: Literal["custom"]
    custom: CustomSpec

    @property
    def function(self) -> FunctionSpec:
        """The tool as the model is shown it: a function with one argument, `input`."""
        given = self.custom
        grammar = given.format.grammar if given.format is not None else None
        said = "" if grammar is None else f"Text of this {grammar.syntax} grammar:\n{grammar.definition}"
        text = {"type": "string", **({"description": said} if said else {})}
        parameters = {"type": "object", "properties": {CUSTOM_INPUT: text}, "required": [CUSTOM_INPUT],
                      "additionalProperties": False}  # fmt: skip
        return FunctionSpec(name=given.name, description=given.description, parameters=parameters)


_Tool = Annotated[ToolDefinition, Tag("a function")] | Annotated[CustomTool, Tag("a custom tool")]
AnyTool = Annotated[_Tool, BY_TYPE]


class NamedFunction(Body):
    """The function that must be called."""

    name: Name


class NamedChoice(Body):
    """`tool_choice` with a name."""

    place = "tool_choice"
    type: Literal["function"]
    function: NamedFunction


class CustomChoice(Body):
    """`tool_choice` with the name of a custom tool."""

    type: Literal["custom"]
    custom: NamedFunction


class AllowedTools(Body):
    """The tools that may be called (`auto`), or of which one must be called (`required`)."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice | CustomChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(Body):
    """`tool_choice` with a list of names."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Choice = Literal["none", "auto", "required"] | NamedChoice | CustomChoice | AllowedChoice
