"""The one table of fields that requests may carry in addition to those that are honoured, by place.

A place is the path of the endpoint for the request itself (`/v1/chat/completions`), and the way to an object
inside it (`messages.content`); where endpoints differ in an object, both (`/v1/messages messages.content`).
"""

from __future__ import annotations

from coterie.protocol.field_table.anthropic import ANTHROPIC
from coterie.protocol.field_table.entries import Extra
from coterie.protocol.field_table.ollama import OLLAMA
from coterie.protocol.field_table.parts import ITEMS, PARTS
from coterie.protocol.field_table.requests import REQUESTS

__all__ = ["EXTRAS", "ITEMS"]

EXTRAS: dict[str, Extra] = {**REQUESTS, **PARTS, **ANTHROPIC, **OLLAMA}
