"""Texts on which models are measured: token ids with the kind of text and its size in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from coterie.config.data import SourceConfig
from coterie.config.errors import ConfigError, DataError
from coterie.data.documents import document_ids
from coterie.data.sources import Reading, read_sources
from coterie.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_MEASURED, MOST_MEASURED = 1024, 8192  # tokens
_FEWEST = 8  # texts, if there are as many: enough for an interval
_LONGEST = 1024  # tokens of a text not to be forgotten
_RETENTION_SEED = 20_011  # differs from the quickstart's seeds: no model was trained on exactly these texts


@dataclass(frozen=True)
class HeldoutDocument:
    """One text to measure on.

    `slice`: kind of text. `ids` (T,): its tokens, after a leading separator. `num_bytes`: its size in UTF-8.
    """

    slice: str
    ids: npt.NDArray[np.integer]
    num_bytes: int

    @property
    def positions(self) -> int:
        """Its tokens, with the separator."""
        return len(self.ids)


class _Positions(Protocol):
    @property
    def positions(self) -> int: ...


Measurable = TypeVar("Measurable", bound=_Positions)


def measured_tokens(trained: int) -> int:
    """Tokens of each kind of text to measure on before and after training on `trained` tokens.

    An eighth: two kinds, twice each, take a sixth of the training's time, as a token is read in a third of
    the time that training on it takes. Measurements are of pairs, so few texts show a change.
    """
    return min(MOST_MEASURED, max(LEAST_MEASURED, trained // 8))


def sample(
    documents: Sequence[HeldoutDocument], num_tokens: int, tokenizer: Tokenizer
) -> list[HeldoutDocument]:
    """About `num_tokens` tokens of the documents: all, or some and of long ones only the beginning."""
    if sum(document.positions for document in documents) <= num_tokens:
        return list(documents)
    longest = num_tokens // _FEWEST
    return spread([_shortened(document, longest, tokenizer) for document in documents], num_tokens)


def _shortened(document: HeldoutDocument, longest: int, tokenizer: Tokenizer) -> HeldoutDocument:
    """The first `longest` tokens of a document, and how many bytes they are."""
    if len(document.ids) <= longest:
        return document
    ids = document.ids[:longest]
    return HeldoutDocument(document.slice, ids, len(tokenizer.decode(ids[1:].tolist()).encode()))


def spread(texts: Sequence[Measurable], num_tokens: int) -> list[Measurable]:
    """Every n-th text, with n chosen so that they hold about `num_tokens` tokens."""
    total = sum(text.positions for text in texts)
    return list(texts[:: max(1, -(-total // num_tokens))])


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


def retention_documents(source: str, tokenizer: Tokenizer, num_tokens: int) -> list[HeldoutDocument]:
    """About `num_tokens` tokens of text that a tuned model must not forget.

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
    documents = [
        HeldoutDocument(document.slice, np.asarray(ids, dtype=np.int64), len(document.text.encode()))
        for document, ids in zip(found, document_ids(found, tokenizer, plain=True), strict=True)
    ]
    return sample(
        [_shortened(document, _LONGEST, tokenizer) for document in documents], num_tokens, tokenizer
    )
