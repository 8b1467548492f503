"""The table of fields: its kinds, the newest `openai` package, and that named fields change nothing."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.batch_create_params import BatchCreateParams
from openai.types.chat import completion_create_params as chat_params
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.file_create_params import FileCreateParams
from openai.types.fine_tuning.job_create_params import JobCreateParams
from openai.types.responses import FunctionToolParam
from openai.types.responses import response_create_params as response_params
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from coterie.api.jobs.batches import BatchRequest
from coterie.api.jobs.files import FileForm
from coterie.api.jobs.fine_tuning import TuningRequest
from coterie.api.openai.embeddings import EmbeddingRequest
from coterie.api.openai.response_items import _READ
from coterie.api.openai.responses import ResponsesRequest
from coterie.protocol.body import Body
from coterie.protocol.field_table import EXTRAS, ITEMS
from coterie.protocol.field_table.entries import Extra
from coterie.protocol.field_table.requests import SHARED
from coterie.protocol.requests import ChatRequest, CompletionRequest
from coterie.protocol.tool_bodies import FunctionSpec
from tests.protocol.test_fields import CALL, CHAT, sifted
from tests.serve.support import call


@pytest.mark.parametrize("place", EXTRAS)
def test_every_field_of_the_table_is_named_or_refused(place):
    extra = EXTRAS[place]
    inner = place.partition(" ")[2] if place.startswith("/") else place
    prefix = f"{inner}.".removeprefix(".")
    for name in extra.named:
        name = name.replace("*", "some")
        assert sifted(place, {name: {"a": 1}, "known": 1}, ("known",)) == ({"known": 1}, [prefix + name])
        assert sifted(place, {name: None}) == sifted(place, {name: []}) == ({}, [])
    for name, others in extra.repeats.items():
        for other in others:
            assert sifted(place, {name: [1], other: "x"}, (other,)) == ({other: "x"}, [prefix + name])
        assert sifted(place, {name: [1]}) == name
        assert sifted(place, {name: []}) == ({}, [])
    for name, other in extra.same.items():
        assert sifted(place, {name: 7, other: 7}, (other,)) == ({other: 7}, [prefix + name])
        assert sifted(place, {name: 7, other: 8}, (other,)) == sifted(place, {name: 7}) == name
    for name, (values, _) in extra.neutral.items():
        assert [sifted(place, {name: value}) for value in values] == [({}, [])] * len(values)
        assert sifted(place, {name: 0.125}) == name
    for name in extra.refused:
        assert [sifted(place, {name: value}) for value in ({}, "x", True, [0], 0)] == [name] * 5
        assert [sifted(place, {name: value}) for value in (None, False, "", [])] == [({}, [])] * 4
    unheard = {"nothing": None, "unheard_of": 1}
    assert sifted(place, unheard) == (({}, [f"{prefix}unheard_of"]) if extra.is_open else "unheard_of")


def bodies_in(annotation: Any) -> list[type[Body]]:
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return [annotation]
    return [body for inner in get_args(annotation) for body in bodies_in(inner)]


def typed_dicts(annotation: Any) -> list[Any]:
    if is_typeddict(annotation):
        return [annotation]
    return [found for inner in get_args(annotation) for found in typed_dicts(inner)]


def unlisted(annotation: Any, bodies: list[type[Body]], path: str = "") -> set[str]:
    """Fields of the package's types that the bodies do not honour and the table does not list."""
    places = [EXTRAS.get(body.place, Extra()) for body in bodies]
    honoured = {info.alias or name: info for body in bodies for name, info in body.model_fields.items()}
    found = set()
    for kind in typed_dicts(annotation):
        for name, hint in get_type_hints(kind).items():
            if name in honoured:
                inner = bodies_in(honoured[name].annotation)
                found |= unlisted(hint, inner, f"{path}.{name}") if inner else set()
            elif not any(name in place for place in places):
                found.add(f"{path}.{name}")
    return found


class FileUpload(FileForm):
    """With its file, which is a part of the form."""

    file: bytes


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (chat_params.CompletionCreateParamsStreaming, ChatRequest),
        (completion_params.CompletionCreateParamsStreaming, CompletionRequest),
        (response_params.ResponseCreateParamsStreaming, ResponsesRequest),
        (EmbeddingCreateParams, EmbeddingRequest),
        (FileCreateParams, FileUpload),
        (BatchCreateParams, BatchRequest),
        (JobCreateParams, TuningRequest),
    ],
)
def test_every_field_of_the_openai_package_is_honoured_or_in_the_table(kind, body):
    """When the pinned package moves, this names its new fields: honour them, or list them with a reason."""
    assert not unlisted(kind, [body])


class NewPart(TypedDict):
    text: str
    new: str


class NewMessage(TypedDict):
    content: list[NewPart] | str


class NewRequest(TypedDict):
    messages: list[NewMessage]
    newer: str
    store: bool


def test_a_new_field_of_the_package_would_be_noticed():
    assert unlisted(NewRequest, [ChatRequest]) == {".newer", ".messages.content.new"}


def test_every_item_and_tool_of_the_openai_package_is_read_or_in_the_table():
    hints = get_type_hints(response_params.ResponseCreateParamsStreaming)
    for item in typed_dicts(hints["input"]):
        fields = get_type_hints(item)
        kind = next(one for one in get_args_deep(fields["type"]) if isinstance(one, str))
        if kind == "item_reference":  # stands for a stored item
            continue
        if kind not in _READ:
            assert kind in ITEMS, f"items of type {kind}: read them, or list them with a reason"
            continue
        table = EXTRAS[f"input.{kind}"]
        assert not {name for name in fields if name not in _READ[kind] and name not in table}, item
        for name in {"content", "output"} & fields.keys():
            parts = [part for part in typed_dicts(fields[name]) if kind != "reasoning"]
            listed = {"type", "text"}
            missed = {key for part in parts for key in get_type_hints(part)} - listed
            assert not {key for key in missed if key not in EXTRAS["input.message.content"]}, item
    fields = get_type_hints(FunctionToolParam)
    known = {"type", *FunctionSpec.model_fields}
    assert not {name for name in fields if name not in known and name not in EXTRAS["tools.function"]}


def get_args_deep(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [found for one in inner for found in get_args_deep(one)] if inner else [annotation]


def test_the_table_lists_no_field_that_is_honoured():
    """Except those that requests have in common, of which one may honour what another does not."""
    shared = {name for extra in SHARED.values() for name, _, _ in extra.rows()}
    kinds = {kind for kind in [Body] for kind in all_kinds(kind)}
    for kind in kinds:
        honoured = {info.alias or name for name, info in kind.model_fields.items()}
        listed = {name for name, _, _ in EXTRAS.get(kind.place, Extra()).rows()}
        assert not (listed & honoured) - shared, (
            f"{kind.__name__}: take them out of {kind.place!r} in the table"
        )


def all_kinds(kind: type[Body]) -> set[type[Body]]:
    return {kind}.union(*(all_kinds(one) for one in kind.__subclasses__()))


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": "a", "reasoning_content": "b", "tool_calls": [CALL]},
    {"role": "tool", "content": "c", "tool_call_id": "c1"},
]
SAYS = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
MADE = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
REQUESTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TURNS, "tools": [TOOL], "max_tokens": 8, "seed": 3},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 8, "seed": 3},
    "/v1/responses": {"input": [SAYS, THOUGHT, MADE, RESULT], "max_output_tokens": 8, "seed": 3},
    "/v1/embeddings": {"input": "Hello"},
    "/tokenize": {"messages": TURNS},
    "/detokenize": {"tokens": [70, 71]},
}

# Fields that are honoured at one path and named at the others.
HONOURED = {"/v1/responses": ("store",), "/v1/completions": ("skip_special_tokens",)}


def laden(data: Any, place: str, start: str = "") -> Any:
    """An object with every field that the table names at its place, and so on inside it."""
    if isinstance(data, list):
        return [laden(one, place, start) for one in data]
    if not isinstance(data, dict):
        return data
    if place == "input":
        place = f"input.{data['type']}"
    table = EXTRAS.get(place, Extra())
    more = {name.replace("*", "some"): {"a": 1} for name in table.named}
    more |= {name: [1] for name, others in table.repeats.items() if data.keys() & {*others}}
    more |= {name: values[0] for name, (values, _) in table.neutral.items()}
    path = "" if place.startswith("/") else f"{place}."
    return {**more, **{name: laden(value, path + name) for name, value in data.items()}}


def said_by(path: str, body: dict[str, Any]) -> Any:
    """What an answer says, without ids and times."""
    if path == "/v1/responses":
        return [item.get("content") for item in body["output"]], body["usage"]
    return [body.get(name) for name in ("usage", "data", "tokens", "prompt")], [
        {**choice, "message": choice.get("message", {}).get("content")} for choice in body.get("choices", ())
    ]


@pytest.mark.parametrize("path", REQUESTS)
def test_fields_that_are_named_do_not_change_the_reply(server, path):
    """Neither do neutral values. All of them at one time, at every place of the request."""
    asked = {"model": "tiny", **REQUESTS[path]}
    call(server.url, "POST", path, asked)  # from here on the prompt is in the cache
    plain = call(server.url, "POST", path, asked)
    full = laden(asked, path)
    for name in HONOURED.get(path, ()):
        del full[name]
    assert len(json.dumps(full)) > len(json.dumps(asked)) + 500
    status, headers, body = call(server.url, "POST", path, full)
    assert (status, plain[0]) == (200, 200), (body, plain)
    assert said_by(path, body) == said_by(path, plain[2])
    named = headers["x-coterie-ignored"].split(",")
    assert "user" in named and len(named) > 20
