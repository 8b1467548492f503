"""`coterie doctor URL`, `coterie bench URL` and `coterie export-serve`."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from coterie.agents import grading
from coterie.agents.load_test import Load, measure, words_of
from coterie.config.errors import ConfigError
from coterie.remote.client import Endpoint, is_url, read_key


def doctor(url: str, only: str | None, key_file: str | None, served: str | None, as_json: bool) -> int:
    """Grade a server: findings as they come, a count at the end. Returns the exit status, 1 for a broken
    promise.
    """
    with contextlib.closing(_endpoint(url, key_file)) as endpoint:
        findings = []
        for finding in grading.grade(endpoint, _model(endpoint, served), only):
            findings.append(finding)
            if sys.stderr.isatty():
                print(f"\r\033[K{finding.area}: {finding.name}", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
    if not findings:
        raise ConfigError(f"--only {only}: no check is called that; without --only all are run and named")
    result = grading.as_json(findings)
    print(json.dumps({"url": url} | result) if as_json else grading.table(findings))
    return 0 if result["passed"] else 1


def bench(url: str, load: dict[str, Any], key_file: str | None, served: str | None, as_json: bool) -> int:
    """Measure a server under load. Returns the exit status, 1 when a request failed."""
    wanted = Load(**load)

    def done(count: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{count}/{wanted.requests}", end="", file=sys.stderr, flush=True)

    with contextlib.closing(_endpoint(url, key_file)) as endpoint:
        measured = measure(endpoint, _model(endpoint, served), wanted, done)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(json.dumps({"url": url} | measured) if as_json else words_of(measured))
    return 1 if measured["failures"] else 0


def export_serve(
    model: str, out: str, engine: str, adapters: list[str], name: str | None, quant: str | None, as_json: bool
) -> None:
    """Write the directory and print what is in it and what to run. Errors: `CoterieError`; nothing is written
    then.
    """
    from coterie.release.export_serve import export_serve as write

    pairs = [given.partition("=") for given in adapters]
    for given, (key, _, path) in zip(adapters, pairs, strict=True):
        if not key or not path:
            raise ConfigError(f"--adapter {given}: give NAME=PATH")
    if quant is not None and engine in ("vllm", "sglang"):
        raise ConfigError(
            f"--quant has no meaning for {engine}, which is given the weights as they are; leave it out"
        )
    chosen = {key: path for key, _, path in pairs}
    if len(chosen) < len(pairs):
        raise ConfigError("--adapter: two have the same name")

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    facts = write(model, Path(out), engine, chosen, name, quant or "q8_0", tell)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{out}: {facts['name']} for {engine}")
    print(f"tool calls     {facts['tool_parser'] or 'no parser'} (replies in the {facts['format']} form)")
    print(f"reasoning      {facts['reasoning_parser'] or 'no parser'}")
    for line in [f"adapter        {key}" for key in facts["adapters"]] + [
        f"note           {n}" for n in facts["notes"]
    ]:
        print(line)
    if "difference" in facts:
        found = facts["difference"]
        top1 = "" if found["top1"] is None else f", the same best token at {found['top1']:.1%}"
        print(
            f"answers        {facts['quant']}: log-probabilities {found['mean_logprob']:.2g} nats off on average{top1}"
        )
    print(f"start          {Path(out) / 'start.sh'}\nprove          {Path(out) / 'verify.sh'}")


def _endpoint(url: str, key_file: str | None) -> Endpoint:
    if not is_url(url):
        raise ConfigError(f"{url}: give a server's address (http://HOST:PORT); `coterie serve` starts one")
    return Endpoint(url, read_key(key_file))


def _model(endpoint: Endpoint, served: str | None) -> str:
    return served or endpoint.models()[0]
