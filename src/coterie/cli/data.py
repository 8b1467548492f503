"""`coterie data card` and `coterie data lint`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from coterie.config.data import DataConfig
from coterie.config.errors import DataError
from coterie.data.build import prepare
from coterie.data.lint import lint as lint_sources
from coterie.text.chat import shipped_template
from coterie.text.tokenizer import Tokenizer


def card(sources: list[str], as_json: bool) -> None:
    """Prepare the sources in a temporary place and print the data card."""
    config = DataConfig.from_dict({"sources": sources}, "data")
    with tempfile.TemporaryDirectory(prefix="coterie-card-") as directory:
        prepared = prepare(config, directory, None if as_json else lambda line: print(line, file=sys.stderr))
        print(json.dumps(prepared.card.to_dict()) if as_json else prepared.card.to_text())


def lint(
    sources: list[str], model: str | None, template: str | None, row_length: int, show: int, as_json: bool
) -> None:
    """Print every problem with file and line; exit status 1 when there is one.

    Examples to tune on are told from plain text by their content; with a model their tokens are looked at
    too.
    """
    from coterie.data.lint_examples import holds_examples, lint_examples

    if model is None and not any(map(holds_examples, sources)):
        plain = lint_sources(sources)
        print(json.dumps(plain.to_dict()) if as_json else plain.to_text())
        problems = len(plain.problems)
    else:
        report = lint_examples(sources, _tokenizer(model, template), row_length, show)
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(json.dumps(report.to_dict(), ensure_ascii=False) if as_json else report.to_text(colour))
        problems = len(report.problems)
    if problems:
        sys.exit(1)


def _tokenizer(model: str | None, template: str | None) -> Tokenizer | None:
    """The model's tokenizer, with another chat template where one was named (a shipped one, or a file)."""
    if model is None:
        if template is not None:
            raise DataError(
                f"chat template '{template}': needs --model, whose tokenizer turns it into tokens"
            )
        return None
    from coterie.checkpoints.directory import locate  # imports torch

    tokenizer = Tokenizer.load(locate(model, weights=False))
    if template is not None:
        file = Path(template)
        tokenizer.chat_template = (
            file.read_text(encoding="utf-8") if file.is_file() else shipped_template(template)
        )
    return tokenizer
