"""Grading a server that speaks the OpenAI API: the checks are run one by one, and the findings are shown.

The contract is the one that `coterie serve` keeps: the server does what a request asks for or refuses it, and
never leaves anything out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from coterie.agents import (
    checks_chat,
    checks_messages,
    checks_ollama,
    checks_protocols,
    checks_research,
    checks_responses,
    checks_wire,
)
from coterie.agents.checks import CHECKS, Absent, Check, Client, Failed
from coterie.remote.client import Endpoint, EndpointError

# A module of checks enters them in CHECKS when it is imported.
SUITES = (
    *(checks_chat, checks_wire, checks_responses, checks_messages, checks_ollama, checks_research),
    checks_protocols,
)
Verdict = Literal["pass", "fail", "absent"]
SIGNS = {"pass": "ok", "fail": "FAIL", "absent": "absent"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; `absent`: the server does not offer it, and need not."""

    area: str
    name: str
    verdict: Verdict
    detail: str = ""


def grade(endpoint: Endpoint, model: str | None = None, only: str | None = None) -> Iterator[Finding]:
    """Run the checks whose area or name contains `only`, one by one. `model`: by default the server's first.

    Errors: `EndpointError` when the server cannot be reached.
    """
    client = Client(endpoint, model or endpoint.models()[0])
    areas = list(dict.fromkeys(check.area for check in CHECKS))
    for check in sorted(CHECKS, key=lambda check: areas.index(check.area)):
        if only is None or only in f"{check.area} {check.name}":
            yield run_check(client, check)


def run_check(client: Client, check: Check) -> Finding:
    """Run one check; a connection that breaks off counts as a failure."""
    try:
        return Finding(check.area, check.name, "pass", check.run(client) or "")
    except Absent as absent:
        return Finding(check.area, check.name, "fail" if check.needed else "absent", str(absent))
    except (Failed, EndpointError) as failed:
        return Finding(check.area, check.name, "fail", " ".join(str(failed).split()))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as malformed:
        # Checks index into answers freely; an answer of another shape shows itself in one of these.
        detail = f"the answer has another form ({type(malformed).__name__}: {malformed})"
        return Finding(check.area, check.name, "fail", detail)


def table(findings: list[Finding]) -> str:
    """The findings as a table for people, grouped by area, with the counts in the last line."""
    lines, area = [], ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            lines.append(area)
        detail = f"  {finding.detail}" if finding.detail else ""
        lines.append(f"  {SIGNS[finding.verdict]:<7}{finding.name}{detail}")
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in SIGNS}
    lines.append(f"{counts['pass']} kept, {counts['fail']} broken, {counts['absent']} not offered")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain JSON, with `passed`: whether no check failed."""
    return {
        "passed": not any(f.verdict == "fail" for f in findings),
        "findings": [asdict(f) for f in findings],
    }
