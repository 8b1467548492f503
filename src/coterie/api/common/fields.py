"""The one table of fields that requests may carry besides those that are honoured, by object.

A field that asks for nothing (null; for the fields of this table also false, "" or []) is as good as absent.
A field without effect on the reply is accepted and named in `x-coterie-ignored`, as `PLACE.FIELD`. Every
other field is a 400 that points to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Extra:
    """Fields of one object. `named`: they cannot change the reply.

    `repeats`: field -> fields of which it repeats one, and without which it would change the reply.
    `refused`: field -> what it would need.
    """

    named: tuple[str, ...] = ()
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


# What libraries attach to any object on its way.
_ATTACHED = ("provider_specific_fields", "cache_control", "prompt_cache_breakpoint", "extra_content")
_ITEM = (*_ATTACHED, "id", "status", "caller", "created_by", "namespace", "async_")
_REASONING = ("reasoning_content", "reasoning")
_MEDIA = dict.fromkeys(
    ("image_url", "input_audio", "audio_url", "video_url", "file", "file_id", "file_data"),
    "anything but text",
) | {"refusal": "a refusal in the history"}
_TOOL = Extra(
    _ATTACHED,
    refused={
        "defer_loading": "loading tools later",
        "allowed_callers": "calls by other tools",
        "async_": "calls that end later",
        "output_schema": "a schema of results",
    },
)

# Place of the object in a request -> its fields; "" is the request itself.
EXTRAS: dict[str, Extra] = {
    "": Extra(
        (
            *("store", "metadata", "client_metadata", "service_tier", "safety_identifier", "user"),
            *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "verbosity"),
        ),
        refused={
            "audio": "audio output",
            "web_search_options": "web search",
            "prediction": "predicted output",
            "functions": "the old 'functions' (send 'tools')",
            "function_call": "the old 'function_call' (send 'tool_choice')",
            "suffix": "text after the completion",
            "chat_template": "a template in a request",
            "background": "a background job",
            "conversation": "a stored conversation",
            "prompt": "a stored prompt",
            "truncation": "cutting the prompt",
            "max_tool_calls": "a bound on built-in tools",
            "moderation": "moderation",
            "context_management": "cutting the prompt",
        },
    ),
    "stream_options": Extra(("include_obfuscation",)),
    "messages": Extra(
        (*_ATTACHED, "annotations", "id", "type", "object", "status", "phase", "created", "model"),
        {
            "parsed": ("content",),
            "reasoning_details": _REASONING,
            "thinking_blocks": _REASONING,
        },
        {
            "refusal": "a refusal in the history",
            "audio": "audio in the history",
            "function_call": "the old 'function_call' (send 'tool_calls')",
        },
    ),
    "messages.content": Extra((*_ATTACHED, "id", "annotations", "logprobs"), {"parsed": ("text",)}, _MEDIA),
    "messages.tool_calls": Extra((*_ATTACHED, "index", "status")),
    "messages.tool_calls.function": Extra(_ATTACHED, {"parsed_arguments": ("arguments",)}),
    "tools": Extra(_ATTACHED),
    "tools.function": _TOOL,
    "input.message": Extra((*_ITEM, "phase")),
    "input.message.content": Extra((*_ATTACHED, "annotations", "logprobs"), {"parsed": ("text",)}, _MEDIA),
    "input.reasoning": Extra((*_ITEM, "encrypted_content")),
    "input.function_call": Extra(_ITEM, {"parsed_arguments": ("arguments",)}),
    "input.function_call_output": Extra((*_ITEM, "name")),
}


def asks_for_nothing(value: Any) -> bool:
    """Whether a value is the same as none. `{}` is not: it may turn a feature on."""
    return value is None or value is False or value in ("", [])


def sift(
    place: str, data: Mapping[str, Any], known: Collection[str], named: list[str] | None
) -> dict[str, Any]:
    """The fields of an object at `place` that are left to read: the `known` ones, and any to be refused.

    Names of fields without effect are appended to `named`.
    """
    extra = EXTRAS.get(place, Extra())
    left: dict[str, Any] = {}
    for name, value in data.items():
        if name in known:
            left[name] = value
        elif value is None or (name in extra.refused and asks_for_nothing(value)):
            continue
        elif name in extra.named or any(data.get(other) is not None for other in extra.repeats.get(name, ())):
            full = f"{place}.{name}".removeprefix(".")
            if named is not None and full not in named and not asks_for_nothing(value):
                named.append(full)
        elif not (name in extra.repeats and asks_for_nothing(value)):
            left[name] = value
    return left


def reason(place: str, name: str) -> str | None:
    """What a refused field would need, if the table says so."""
    return EXTRAS.get(place, Extra()).refused.get(name)
