"""`coterie data`: look at training text and tuning examples before using them."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import TEMPLATES, Json, Sources
from coterie.cli.output import answer

if TYPE_CHECKING:
    from pathlib import Path

    from coterie.text.tokenizer import Tokenizer


def card(sources: Sources, as_json: Json = False) -> None:
    """Count documents, bytes and slices, and what would be dropped and why."""
    from coterie.config.data import DataConfig
    from coterie.data.build import prepare

    config = DataConfig.from_dict({"sources": sources}, "data")
    with tempfile.TemporaryDirectory(prefix="coterie-card-") as directory:
        card = prepare(config, directory).card
    answer(card.to_dict(), as_json, [card.to_text()])


def lint(
    sources: Sources,
    model: Annotated[
        str | None, typer.Option(help="The model whose tokenizer and chat template are checked too.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help=f"Another chat template: a file, or {TEMPLATES}.")
    ] = None,
    row_length: Annotated[int, typer.Option(help="Most tokens that an example may take.", min=8)] = 4096,
    show: Annotated[int, typer.Option(help="Show the tokens of the first examples.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Find what is wrong in training text or tuning examples, with file and line.

    Conversations, preferences and other examples are recognised by their content. With --model, lint also
    checks lengths, packing, the share of tokens that are learnt, templates that change earlier turns, and
    tool calls that cannot be read back. Exits with 1 when there is a problem.
    """
    from coterie.data.lint import lint as lint_text
    from coterie.data.lint_examples import holds_examples, lint_examples

    if model is None and not any(map(holds_examples, sources)):
        plain = lint_text(sources)
        answer(plain.to_dict(), as_json, [plain.to_text()])
        problems = sum(not problem.warning for problem in plain.problems)
    else:
        report = lint_examples(sources, _tokenizer(model, template), row_length, show)
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        answer(report.to_dict(), as_json, [report.to_text(colour)], ensure_ascii=False)
        problems = len(report.problems)
    if problems:
        sys.exit(1)


def _of_file(path: Path) -> Tokenizer:
    """The tokenizer of a model in a GGUF file."""
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config import DataError

    tokenizer = Checkpoint.open(path).tokenizer
    if tokenizer is None:
        raise DataError(f"{path}: holds no tokenizer")
    return tokenizer


def _tokenizer(model: str | None, template: str | None) -> Tokenizer | None:
    """The model's tokenizer, with another chat template where one was named (a shipped one, or a file)."""
    from coterie.checkpoints.locate import locate
    from coterie.config import DataError
    from coterie.text.template_sources import ChatTemplates, template_from
    from coterie.text.tokenizer import Tokenizer

    if model is None:
        if template is not None:
            raise DataError(
                f"chat template '{template}': needs --model, whose tokenizer turns it into tokens"
            )
        return None
    path = locate(model, weights=False)
    tokenizer = _of_file(path) if path.is_file() else Tokenizer.load(path)
    if template is not None:
        tokenizer.templates = ChatTemplates.of(template_from(template))
    return tokenizer
