"""What a request says about the form of a reply's text: a JSON schema, a choice, a pattern or a grammar.

The names are vLLM's: `structured_outputs`, and before it `guided_json`, `guided_choice`...; and OpenAI's
`response_format`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.hosting.constraints.contents import choice_rules, grammar_rules, regex_rules
from coterie.hosting.constraints.grammar import GrammarFilter, Grammars
from coterie.hosting.errors import invalid
from coterie.protocol.requests import ChatRequest, Generation, ResponseFormat

_SCHEMA_TEXT = JsonLimits(depth=64, items=200_000)
_RULES = {"regex": regex_rules, "choice": choice_rules, "grammar": grammar_rules}


@dataclass(frozen=True)
class Structure:
    """The form of a reply. `kind`: `json` (`value` is a schema), `regex`, `choice` or `grammar`.

    `pointer`: the field of the request that says so. `strict`: a schema is enforced in full or refused.
    """

    kind: str
    value: Any
    pointer: str
    strict: bool = False

    @staticmethod
    def of(body: Generation) -> Structure | None:
        """What the request asks for. Errors: `ApiError` 400 for two forms, or a schema that is not JSON."""
        given = [("guided_" + kind, kind, getattr(body, "guided_" + kind)) for kind in ("json", *_RULES)]
        outputs = body.structured_outputs
        if outputs is not None:
            at = "structured_outputs"
            given += [(f"{at}/{kind}", kind, getattr(outputs, kind)) for kind in _RULES]
            given.append((f"{at}/json", "json", outputs.json_))
            given.append((f"{at}/json_object", "json", {"type": "object"} if outputs.json_object else None))
        asked = [(place, kind, value) for place, kind, value in given if value is not None]
        if not asked:
            return None
        place, kind, value = asked[0]
        if len(asked) > 1:
            raise invalid(
                f"/{asked[1][0]}: a reply has one form; this request has {place} too", "/" + asked[1][0]
            )
        if kind == "json" and isinstance(value, str):
            value = _read(value, "/" + place)
        return Structure(kind, value, "/" + place)

    def filter(
        self,
        grammars: Grammars,
        opened: bool | None,
        tools: Sequence[Mapping[str, Any]] = (),
        exact: bool = True,
    ) -> GrammarFilter:
        """The grammar of one reply, which may call one of `tools` instead; `opened` as `Grammars.of_rules`.

        `exact`: as if `strict`. Errors: `ApiError` 400 for what cannot be enforced.
        """
        if self.kind == "json":
            return grammars.of_schema(self.value, self.pointer, opened, tools, exact or self.strict)
        return grammars.of_rules(_RULES[self.kind](self.value, self.pointer), self.pointer, opened, tools)


def structure_of(body: Generation) -> Structure | None:
    """The form of a reply, which `response_format` may say too. Errors: as `Structure.of`."""
    found, form = Structure.of(body), body.response_format
    if form is None or form.type == "text":
        return found
    if found is not None:
        raise one_form(found)
    if form.type == "json_object":
        return Structure("json", {"type": "object"}, "/response_format")
    strict = form.json_schema is not None and form.json_schema.strict is True
    return Structure("json", schema_of(form), "/response_format/json_schema/schema", strict)


def schema_of(form: ResponseFormat) -> dict[str, Any]:
    """The schema of a `json_schema` format. Errors: `ApiError` 400 when it is missing."""
    if form.json_schema is None:
        pointer = "/response_format/json_schema"
        raise invalid(f"{pointer}: is missing", pointer, "missing_required_parameter")
    return form.json_schema.schema_


def one_form(found: Structure) -> Exception:
    """The error for a request whose `response_format` says another form."""
    return invalid(
        f"{found.pointer}: a reply has one form; this request has response_format too", found.pointer
    )


def check_end(body: Generation, kept: GrammarFilter | None) -> None:
    """Refuse to lengthen a reply that its grammar or its first call ends. Errors: `ApiError` 400."""
    if body.min_tokens and isinstance(body, ChatRequest) and body.tools and body.parallel_tool_calls is False:
        raise invalid("/min_tokens: cannot go with one call at most, which ends the reply", "/min_tokens")
    for name in ("min_tokens", "ignore_eos"):
        if kept is not None and kept.ends and getattr(body, name):
            raise invalid(
                f"/{name}: cannot go with a reply of fixed form, which ends when it is complete", f"/{name}"
            )


def _read(text: str, pointer: str) -> dict[str, Any]:
    try:
        return parse_json_object(text, _SCHEMA_TEXT)
    except JsonError as error:
        raise invalid(f"{pointer}: the schema {error}", pointer, "invalid_schema") from None
