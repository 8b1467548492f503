"""The chat templates that an adapter or patch carries because it was tuned with others than its base's."""

from __future__ import annotations

from pathlib import Path

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.text.template_sources import ChatTemplates, stored_templates
from coterie.text.tokenizer import Tokenizer


def adopt_templates(base: Checkpoint, variant: str | Path) -> ChatTemplates:
    """Give the opened base the templates in the directory of an adapter or patch; returns them."""
    carried = stored_templates(Path(variant).expanduser())
    if carried.named and base.tokenizer is not None:
        base.tokenizer.templates = carried
    return carried


def other_templates(base: str | Path | Checkpoint | None, tokenizer: Tokenizer | None) -> ChatTemplates:
    """The templates of a tokenizer that the directory of its base does not hold; none where it holds them."""
    if base is None or tokenizer is None:
        return ChatTemplates()
    path = base.path if isinstance(base, Checkpoint) else Path(base).expanduser()
    own = stored_templates(path).named if path.is_dir() else tokenizer.templates.named
    return ChatTemplates() if own == tokenizer.templates.named else tokenizer.templates
