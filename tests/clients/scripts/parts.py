"""What the scripts of the Python clients share. They run outside our environment and import nothing of it.

A script is called with the server's address and the name of a part, and its last line is the part's result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

GREETING = "Good morning, who are you?"
SUM = "What is 714 + 273?"
DOG = "Invent a dog."
ENDLESS = "Count without end."
CALCULATOR = {
    "type": "object",
    "properties": {"expression": {"type": "string", "description": "A sum."}},
    "required": ["expression"],
}
DOG_SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Rex", "Fido"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MOST = 24  # tokens of a reply to the greeting


def calculator(expression: str) -> str:
    """Work out a sum."""
    return str(sum(int(number) for number in expression.split("+")))


def main(parts: dict[str, Callable[[str], Any]]) -> None:
    """Run the part that the command line names."""
    print(json.dumps(parts[sys.argv[2]](sys.argv[1])))
