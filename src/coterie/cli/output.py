"""How verbs print: answers on standard output, notes and progress on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol


def answer(
    facts: Mapping[str, Any], as_json: bool, lines: Iterable[str], *, ensure_ascii: bool = True
) -> None:
    """Print a verb's result on standard output: `facts` as one JSON object, or `lines` for people.

    `lines` is read only when it is printed, so a generator costs nothing with `--json`.
    """
    from coterie.text.printable import shown

    if as_json:
        text = json.dumps(facts, ensure_ascii=ensure_ascii)
        print(text if shown(text) == text else json.dumps(facts))
    else:
        for line in lines:
            print(shown(line))


class Ended(Protocol):
    """How a run ended. `reason`: why."""

    @property
    def reason(self) -> str: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        ...


def answer_run(result: Ended, as_json: bool, lines: Iterable[str]) -> None:
    """`answer` for a run; the program ends with the signal's status where a signal stopped it."""
    from coterie.train.callbacks import STOPPED

    answer(result.to_dict(), as_json, lines)
    if result.reason in STOPPED:
        sys.exit(STOPPED[result.reason])


def note(line: str) -> None:
    """Log one line of progress; the command line shows it on standard error (see `cli/messages.py`)."""
    logging.getLogger("coterie").info("%s", line)
