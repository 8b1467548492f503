"""`coterie doctor`: what this machine offers, or whether a server keeps its promises."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli.connect import address, counter
from coterie.cli.options import Json, KeyFile, Served
from coterie.cli.output import answer


def doctor(
    url: Annotated[str | None, typer.Argument(help="A server's http address; none: this machine.")] = None,
    only: Annotated[str | None, typer.Option(help="Only checks whose area or name contains this.")] = None,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Show this machine's processor, precision, memory and libraries. With a URL, grade that server.

    Any OpenAI-compatible server can be graded: fields honoured or refused, errors, streams, tools, JSON,
    limits, dropped connections; and, where it offers them, the APIs of Anthropic and Ollama, stored
    responses, batches and vLLM's fields. The exit status is 1 when a promise is broken.
    """
    if url is None:
        _machine(as_json)
    else:
        _server(url, only, api_key_file, served, as_json)


def _machine(as_json: bool) -> None:
    from coterie.machine.facts import machine_report
    from coterie.native.choice import readiness
    from coterie.nn.kernels.measured import described

    facts, problems = machine_report()
    facts["native kernels"] = readiness()
    verdict = [f"problem: {problem}" for problem in problems] or ["no problems found"]
    products = described()
    lines = [f"{name:<20}{value}" for name, value in facts.items()]
    lines += [f"{'products':<20}{work.replace('_', ' ')}: {way}" for work, way in products.items()]
    answer(facts | {"products": products, "problems": problems}, as_json, lines + verdict)
    if problems:
        sys.exit(1)


def _server(url: str, only: str | None, key_file: str | None, served: str | None, as_json: bool) -> None:
    from coterie.agents import grading
    from coterie.config import ConfigError

    findings = []
    with address(url, key_file) as endpoint, counter() as show:
        for finding in grading.grade(endpoint, served or endpoint.models()[0], only):
            findings.append(finding)
            show(f"{finding.area}: {finding.name}")
    if not findings:
        raise ConfigError(
            f"--only {only}: no check has that in its area or name; without --only all are run and named"
        )
    result = grading.as_json(findings)
    answer({"url": url} | result, as_json, [grading.table(findings)])
    sys.exit(0 if result["passed"] else 1)
