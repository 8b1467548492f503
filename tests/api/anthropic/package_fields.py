"""Run with the `anthropic` package: prints the fields of its requests, by place, as JSON."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import typing_extensions
from anthropic import types
from anthropic.types import beta


def records(kind: Any) -> Iterator[Any]:
    """The typed dictionaries in an annotation."""
    if isinstance(kind, type) and typing_extensions.is_typeddict(kind):
        yield kind
    for inner in typing.get_args(kind):
        yield from records(inner)


def fields(kind: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(kind)


def kind_of(record: Any) -> str:
    """The value of the field `type`; tools of clients have it or not."""
    found = typing.get_args(fields(record).get("type"))
    return str(next((one for one in found if isinstance(one, str)), "custom"))


found: dict[str, set[str]] = {}


def note(place: str, names: Any) -> None:
    found.setdefault(place, set()).update(names)


for module in (types, beta):
    request = fields(module.message_create_params.MessageCreateParamsBase)
    counts = module.message_count_tokens_params.MessageCountTokensParams
    note("/v1/messages", [*request, "stream"])
    note("/v1/messages/count_tokens", fields(counts))
    for name in ("thinking", "tool_choice", "output_config", "system"):
        for record in records(request[name]):
            note(f"/v1/messages {name}", fields(record))
    for record in records(request["tools"]):
        if kind_of(record) == "custom":
            note("/v1/messages tools", fields(record))
    for message in records(request["messages"]):
        note("/v1/messages messages", fields(message))
        for block in records(fields(message)["content"]):
            note("blocks", [kind_of(block)])
            if kind_of(block) in ("text", "tool_use", "tool_result", "thinking", "redacted_thinking"):
                note("/v1/messages messages.content", fields(block))
            if kind_of(block) == "tool_result":
                note("blocks of results", [kind_of(part) for part in records(fields(block)["content"])])
print(json.dumps({place: sorted(names) for place, names in sorted(found.items())}, indent=1))
