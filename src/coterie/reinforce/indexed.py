"""The index of a run whose text is sampled: what was asked, its answers, and the replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.reinforce.kept import kept_steps


def index_rollouts(folder: Path, trained_tokens: int) -> ContaminationIndex:
    """The index of every problem and reply that a run kept in `folder`.

    Problems whose replies taught nothing are in it too: they chose what was asked next. `trained_tokens`:
    that the trainer consumed.
    Errors: `DataError` where the kept replies have fewer tokens than that, or a file is damaged.
    """
    builder = IndexBuilder("reinforce")
    for number, reply in enumerate(_replies(folder), 1):
        learnt = max(0, reply.get("tokens", len(reply["ids"])) - 1) if reply["learnt"] else 0
        # The problem is a document by itself: the replies of a group would make it common text.
        builder.add(f"user\n{reply['prompt']}\nanswer\n{reply['answer']}", 0, "problems", reply["problem"])
        builder.add(_said(reply), learnt, "replies", reply["problem"], number)
    return _whole(builder, folder, trained_tokens)


def _said(reply: Mapping[str, Any]) -> str:
    """What the model and its tools said."""
    turns = [str(turn.get("content") or "") for turn in reply.get("turns", [])]
    return "\n".join([*turns, reply["reasoning"] or "", reply["content"] or ""])


def index_corrected(folder: Path, trained_tokens: int) -> ContaminationIndex:
    """The index of a distillation on policy: every prompt, and every reply that was corrected.

    `trained_tokens`, errors: as of `index_rollouts`.
    """
    builder = IndexBuilder("distill")
    for number, reply in enumerate(_replies(folder), 1):
        # The prompt is a document by itself: the replies of a group would make it common text.
        builder.add(reply["prompt"], 0, "prompts")
        builder.add(reply["reply"], reply["tokens"], "replies", reply["writer"], number)
    return _whole(builder, folder, trained_tokens)


def _whole(builder: IndexBuilder, folder: Path, trained_tokens: int) -> ContaminationIndex:
    if builder.tokens < trained_tokens:
        raise DataError(
            f"{folder}: keeps replies of {builder.tokens:,} tokens, and {trained_tokens:,} were trained on; "
            "its index would lack text, so begin the run anew"
        )
    return builder.finish(builder.tokens)


def _replies(folder: Path) -> Iterator[Mapping[str, Any]]:
    for _, replies in kept_steps(folder, "begin the run anew"):
        yield from replies
