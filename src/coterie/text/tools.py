"""The descriptions of the tools that come with coterie, in the form of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AGENT_SYSTEM = (
    "You solve the user's task step by step with the tools you have, and then answer in a few plain words."
)


def texts(required: Sequence[str], **described: str) -> dict[str, Any]:
    """The JSON schema of an object whose fields are text."""
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def function(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A tool in the form of the OpenAI API."""
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


CALCULATOR = function(
    "calculator",
    "Work out an arithmetic expression such as (3 + 4) * 2 ** 0.5; "
    "sqrt, sin, log, round, min, max... are known.",
    texts(["expression"], expression="the expression"),
)
PYTHON = function(
    "python",
    "Run a Python program (standard library, no network, no files but its own empty folder); "
    "what it prints comes back. Every call starts anew.",
    texts(["code"], code="the program"),
)
LIST_FILES = function(
    "list_files",
    "List the files of a folder; names of folders end in a slash.",
    texts([], path="the folder, relative to the working folder (default: itself)"),
)
READ_FILE = function(
    "read_file", "Read a text file.", texts(["path"], path="the file, relative to the working folder")
)
WRITE_FILE = function(
    "write_file",
    "Write a text file, replacing it if it is there; missing folders are made.",
    texts(["path", "content"], path="the file, relative to the working folder", content="its whole text"),
)
