"""`coterie data card` and `coterie data lint`."""

from __future__ import annotations

import json
import sys
import tempfile

from coterie.config.data import DataConfig
from coterie.data.build import prepare
from coterie.data.lint import lint as lint_sources


def card(sources: list[str], as_json: bool) -> None:
    """Prepare the sources in a temporary place and print the data card."""
    config = DataConfig.from_dict({"sources": sources}, "data")
    with tempfile.TemporaryDirectory(prefix="coterie-card-") as directory:
        prepared = prepare(config, directory, None if as_json else lambda line: print(line, file=sys.stderr))
        print(json.dumps(prepared.card.to_dict()) if as_json else prepared.card.to_text())


def lint(sources: list[str], as_json: bool) -> None:
    """Print every problem with file and line; exit status 1 when there is one."""
    report = lint_sources(sources)
    print(json.dumps(report.to_dict()) if as_json else report.to_text())
    if report.problems:
        sys.exit(1)
