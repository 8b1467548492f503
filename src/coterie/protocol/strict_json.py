"""Request bodies: JSON without constructs that parsers interpret differently."""

from __future__ import annotations

from typing import Any

from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.hosting.errors import ApiError

MAX_DEPTH = 64
MAX_ITEMS = 200_000  # of one list or object
MAX_VALUES = 1_000_000  # of all lists and objects together: a second's work
_BODY = JsonLimits(
    size=2**31, depth=MAX_DEPTH, items=MAX_ITEMS, values=MAX_VALUES
)  # the middleware limits the size


def parse(body: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Errors: `ApiError` 400 `invalid_json` for anything but one UTF-8 JSON object, for a repeated key, NaN or
    infinite numbers, integers of more than 300 digits, lone surrogates, nesting deeper than 64, a list longer
    than 200,000 or more than a million values in all.
    """
    try:
        return parse_json_object(body, _BODY)
    except JsonError as error:
        raise ApiError(400, f"the body {error}", "invalid_json") from None
