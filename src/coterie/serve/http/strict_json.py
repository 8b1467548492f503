"""Request bodies: JSON without constructs that parsers interpret differently."""

from __future__ import annotations

import json
import math
from typing import Any

from coterie.serve.errors import ApiError

MAX_DEPTH = 64
MAX_ITEMS = 200_000  # of one list or object


def parse(body: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Errors: `ApiError` 400 `invalid_json` for anything but one UTF-8 JSON object, for a repeated key, NaN or
    infinite numbers, lone surrogates, nesting deeper than 64 or a list longer than 200 000.
    """
    try:
        data = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise _wrong("the body is not UTF-8") from None
    except RecursionError:
        raise _wrong(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _wrong(f"the body is not valid JSON ({str(error)[:120]})") from None
    if not isinstance(data, dict):
        raise _wrong("the body must be a JSON object")
    _check(data)
    return data


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, "invalid_json")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _wrong(f"the key {json.dumps(twice[:60])} comes twice in one object")
    return data


def _constant(name: str) -> Any:
    raise _wrong(f"{name} is not a JSON number")


def _check(data: Any) -> None:
    """Check depth, sizes, numbers and text, without recursion."""
    pending: list[tuple[Any, int]] = [(data, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise _wrong(f"the body is nested deeper than {MAX_DEPTH} levels")
            if len(value) > MAX_ITEMS:
                raise _wrong(f"a list or object has {len(value)} entries; {MAX_ITEMS} are allowed")
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
            inner = value.values() if isinstance(value, dict) else value
            pending += [(item, depth + 1) for item in inner if type(item) is not int]
        elif isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _wrong("a number is too large")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _wrong("a text holds half of a surrogate pair; send whole characters") from None
