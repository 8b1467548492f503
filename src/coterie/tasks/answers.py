"""The one grammar of answers: a reply ends in one line `Answer: ...`, so that hedging earns nothing."""

from __future__ import annotations

import json
import re
from typing import Any

MARK = "Answer:"
LONGEST = 2000  # characters of an answer
_FENCE = re.compile(r"^```([a-zA-Z]*)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,60})")


def final_answer(reply: str) -> str | None:
    """What stands behind the reply's one `Answer:`; None unless that line is its last and its only one.

    The mark must begin a line. Spaces around the answer do not count.
    """
    if reply.count(MARK) != 1:
        return None
    before, _, after = reply.partition(MARK)
    if before and before.rsplit("\n", 1)[-1].strip(" \t"):
        return None
    answer = after.strip()
    return answer if answer and "\n" not in answer and len(answer) <= LONGEST else None


def whole_number(text: str) -> int | None:
    """The number that the text is, in ASCII digits without leading zeros; None if it is none."""
    return int(text) if _WHOLE.fullmatch(text) and text != "-0" else None


def json_value(text: str) -> Any:
    """The JSON value that the text is, or None (also for null)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def code_block(reply: str) -> str | None:
    """The reply's only fenced block of code, marked as Python or not at all; None for any other number."""
    if reply.count("```") != 2:
        return None
    found = _FENCE.search(reply)
    return found[2] if found and found[1].lower() in ("", "python", "py") else None
