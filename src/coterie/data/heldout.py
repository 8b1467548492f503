"""Texts on which models are measured: token ids with the kind of text and its size in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coterie.config.data import SourceConfig
from coterie.config.errors import ConfigError, DataError
from coterie.data.documents import document_ids
from coterie.data.sources import Reading, read_sources
from coterie.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

RETENTION_TOKENS = 8192
_RETENTION_LENGTH = 1024
_RETENTION_SEED = 20_011  # differs from the quickstart's seeds: no model was trained on exactly these texts


@dataclass(frozen=True)
class HeldoutDocument:
    """One text to measure on.

    `slice`: kind of text. `ids` (T,): its tokens, after a leading separator. `num_bytes`: its size in UTF-8.
    """

    slice: str
    ids: npt.NDArray[np.integer]
    num_bytes: int


def spread(documents: Sequence[HeldoutDocument], num_tokens: int) -> list[HeldoutDocument]:
    """Every n-th document, with n chosen so that they hold about `num_tokens` tokens."""
    total = sum(len(document.ids) for document in documents)
    return list(documents[:: max(1, -(-total // num_tokens))])


def read_domains(
    sources: Sequence[str],
    tokenizer: Tokenizer | None,
    max_tokens: int = 50_000,
    model_name: str = "the model",
) -> list[HeldoutDocument]:
    """Documents of each source, each about `max_tokens` tokens at most, with the file's name as slice.

    The embedded corpus `primer` keeps its own slices.
    Errors: `DataError` for a source that cannot be read; `ConfigError` without a tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(f"{model_name}: has no tokenizer.json, which reading text needs; add one")
    documents: list[HeldoutDocument] = []
    names: set[str] = set()
    for source in sources:
        name = Path(source).name or source
        name = source if name in names else name
        names.add(name)
        used: dict[str, int] = {}
        for document in read_sources([source], Reading(max_bytes=16 * max_tokens, tokenizer=tokenizer)):
            domain = document.slice if source == "primer" else name
            if used.get(domain, 0) >= max_tokens:
                continue
            ids = document_ids([document], tokenizer)[0]
            ids = ids[: max(2, max_tokens - used.get(domain, 0))]
            used[domain] = used.get(domain, 0) + len(ids)
            size = len(document.text.encode())
            documents.append(HeldoutDocument(domain, np.array(ids, dtype=np.int64), size))
    return documents


def retention_documents(source: str, tokenizer: Tokenizer) -> list[HeldoutDocument]:
    """About `RETENTION_TOKENS` tokens of text that a tuned model must not forget.

    Bits per byte are measured on them before and after tuning. `source`: `primer`, a text source, or `none`.
    Errors: `DataError` for a source that cannot be read.
    """
    if source == "none":
        return []
    if source == "primer":
        spec, reading = SourceConfig(path=source, max_bytes=60_000), Reading(seed=_RETENTION_SEED)
    else:
        if not Path(source).expanduser().exists() and not source.startswith("hf://"):
            raise DataError(
                f"retention {source}: no such file or directory; give a text source, primer or none"
            )
        spec, reading = SourceConfig(path=source), Reading(max_bytes=200_000)
    # Conversations are plain text here: a chat template may refuse some of them, which must not stop a run.
    found = list(read_sources([spec], reading))
    documents = []
    for document, tokens in zip(found, document_ids(found, tokenizer, plain=True), strict=True):
        ids = np.asarray(tokens[:_RETENTION_LENGTH], dtype=np.int64)
        # Bytes of the part that is scored: a long document is cut.
        size = len(tokenizer.decode(ids[1:].tolist()).encode())
        documents.append(HeldoutDocument(document.slice, ids, size))
    return spread(documents, RETENTION_TOKENS)
