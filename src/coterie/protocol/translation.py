"""Requests of other APIs as chat requests, and what is said of a chat request in terms of the other API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from coterie.hosting.errors import ApiError
from coterie.protocol.body import read
from coterie.protocol.requests import ChatRequest

Rewrite = Callable[[str], str]


def rewriting(places: Mapping[str, str]) -> Rewrite:
    """Rewrites JSON pointers in a text: `places` has those of the chat API, and those of the other API."""
    longest_first = sorted(places, key=len, reverse=True)
    pattern = re.compile(r"(?<![\w/])(" + "|".join(map(re.escape, longest_first)) + r")\b")
    return lambda text: pattern.sub(lambda found: places[found[1]], text)


def in_terms_of(names: Mapping[str, str], place: Rewrite) -> Rewrite:
    """Names of fields without effect: `names` has those of the chat API, and those of the other API.

    A name may be a pointer into a schema, which `place` rewrites.
    """
    return lambda name: place(name) if name.startswith("/") else names.get(name, name)


def chat_request(data: Mapping[str, Any], place: Rewrite, strict: bool) -> tuple[ChatRequest, list[str]]:
    """The chat request of those fields that are not None, and the names of fields without effect.

    Errors: `ApiError` 400, with the places in the other request.
    """
    asked = {name: value for name, value in data.items() if value is not None}
    try:
        return read(ChatRequest, asked, strict)
    except ApiError as error:
        raise error.moved(place) from None
