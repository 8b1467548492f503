"""Who approves a call that writes: nobody has to, nobody may, or the person at the terminal does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Literal

from coterie.agents.loop import Approve
from coterie.sandbox.tools import Tool

Policy = Literal["ask", "all", "none"]


def approver(policy: Policy) -> Approve:
    """The function that decides on each call. `ask` needs a terminal; without one it is `none`."""
    if policy == "all":
        return lambda tool, arguments: True
    if policy == "none" or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return lambda tool, arguments: False
    return _Asker()


class _Asker:
    """Asks on standard error, and escapes control characters in what the model wrote."""

    def __init__(self) -> None:
        self._always: set[str] = set()

    def __call__(self, tool: Tool, arguments: Mapping[str, Any]) -> bool:
        if tool.name in self._always:
            return True
        print(f"\n{tool.name} wants to go ahead with:", file=sys.stderr)
        for name, value in arguments.items():
            text = json.dumps(value)  # which escapes every control character
            print(
                f"  {json.dumps(name)}: {text[:4000]}{f'... ({len(text)} characters)' * (len(text) > 4000)}",
                file=sys.stderr,
            )
        while True:
            print("allow? y(es), n(o), a(lways for this tool): ", end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline()
            word = answer.strip().lower()
            if not answer or word in ("n", "no"):
                return False
            if word in ("a", "always"):
                self._always.add(tool.name)
            if word in ("y", "yes", "a", "always"):
                return True
