"""`prepare`: from sources to token shards with a data card, done once and found again.

    read_sources -> deduplicate -> split -> mixture weights, seeded order -> tokenizer -> write_shards
                                                                              `-> contamination index

The result is one directory named by a hash of everything that decides its content. It is written under a
temporary name and renamed when complete, so a directory with its final name is whole. Reuse still checks the
hash of every file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coterie.config.data import DataConfig
from coterie.config.errors import DataError
from coterie.config.files import file_sha256, read_json, write_json
from coterie.config.temporaries import remove_dead, temporary
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.items import items_digest
from coterie.data.card import DataCard, count_slices
from coterie.data.dedup import deduplicate
from coterie.data.documents import Document
from coterie.data.heldout import HeldoutDocument
from coterie.data.indexed import add_document, without_items
from coterie.data.progress import Ticker, counted
from coterie.data.rows import PackedRows
from coterie.data.shards import Shards, open_shards, write_shards
from coterie.data.sources import Reading, fingerprint, read_sources
from coterie.data.split import place, split
from coterie.primer import VERSION as PRIMER_VERSION
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")

INDEX = "train.index"
_FORMAT = 3  # raise when the same settings and sources would give other tokens
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_FURTHER_TEMPLATES = ("chat_template.json", "additional_chat_templates/*.jinja")

_TRAIN_SAMPLE_BYTES = 4_000_000  # of text for the tokenizer: more changes few merges and costs time
_TRAIN_DOCUMENT_CHARS = 65536


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training: tokenizer, shards of both sides and the card."""

    directory: Path
    tokenizer: Tokenizer
    train: Shards
    heldout: Shards
    card: DataCard
    row_length: int
    reused: bool

    @property
    def index(self) -> ContaminationIndex:
        """What the training text holds, by its fingerprints (`coterie.contamination`)."""
        return ContaminationIndex.open(self.directory / INDEX)

    def train_rows(self, row_length: int | None = None) -> PackedRows:
        """Training rows of `row_length` tokens (default: the settings')."""
        return PackedRows(self.train, row_length or self.row_length)

    def heldout_documents(self) -> list[HeldoutDocument]:
        """Every held-out document, its token ids with the leading end-of-text."""
        shards = self.heldout
        return [
            HeldoutDocument(
                shards.slice_names[shards.slices[index]], shards.document(index), int(shards.num_bytes[index])
            )
            for index in range(shards.num_documents)
        ]


def check_outside(config: DataConfig, out_dir: str | Path) -> None:
    """Refuse a result inside the text, which would be read as text next time. Errors: `DataError`."""
    for source in config.sources:
        root = Path(source.path).expanduser()
        if root.is_dir() and Path(out_dir).resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{source.path}: holds {out_dir}, where the result goes; choose an 'out' outside the text"
            )


def prepare(config: DataConfig, out_dir: str | Path) -> Prepared:
    """Read, deduplicate, split, train or load the tokenizer, write shards and `card.json` below `out_dir`.

    Each stage is logged in one line. A complete, undamaged result for the same settings and unchanged sources
    is reused.
    Errors: `DataError` for sources that cannot be used, or a result that cannot be written.
    """
    check_outside(config, out_dir)
    final = Path(out_dir) / f"data-{_key(config)}"
    remove_dead(final.parent)
    if final.exists():
        try:
            prepared = _open(final, config)
            _log.info(f"data: reusing {final}")
            return prepared
        except DataError as error:
            _log.info(f"data: {error}; building it anew")
            shutil.rmtree(final)
    try:
        with temporary(final, directory=True) as part:
            _build(config, part)
            os.replace(part, final)
    except OSError as error:
        if not final.is_dir():  # another process may have finished the same work first
            raise DataError(
                f"{final}: cannot be written ({error.strerror}); free space or choose another place"
            ) from None
    prepared = _open(final, config)
    return replace(prepared, reused=False)


def _key(config: DataConfig) -> str:
    """The result's name: a hash of settings, source files, tokenizer, and for the primer the interpreter."""
    import platform

    settings = config.to_dict()
    del settings["row_length"]  # rows are cut when read
    if settings.pop("exclude") is not None and config.exclude is not None:
        settings["exclude"] = [items_digest(config.exclude.items), *config.exclude.to_dict().items()]
    tokenizer = None
    if config.tokenizer is not None:
        files = [Path(config.tokenizer) / name for name in _TOKENIZER_FILES]
        tokenizer = [file_sha256(file) if file.is_file() else None for file in files]
        for pattern in _FURTHER_TEMPLATES:
            tokenizer += map(file_sha256, sorted(Path(config.tokenizer).glob(pattern)))
    about = [_FORMAT, settings, fingerprint(config.sources), tokenizer]
    if any(source.path.startswith("primer") for source in config.sources):
        about += [platform.python_version(), PRIMER_VERSION]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _build(config: DataConfig, directory: Path) -> None:
    given = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
    reading = Reading(config.text_field, config.seed, config.max_bytes, given)
    documents, report = _read(config, reading), reading.report
    if given is not None and given.chat_template is None and any(document.messages for document in documents):
        raise DataError(
            f"{config.tokenizer}: has no chat template, which conversations need; "
            "save a chat_template.jinja there"
        )
    _log.info(f"data: read {report.documents:,} documents, {report.num_bytes:,} bytes")
    kept, dropped = deduplicate(documents, config.dedup_exact, config.dedup_near, config.near_threshold)
    _log.info(f"data: {len(kept):,} documents after removing {sum(dropped.values()):,} repeated ones")
    if config.exclude is not None:
        kept, dropped["holds an evaluation item"] = without_items(kept, config.exclude)
    train, heldout, forced = split(kept, config.heldout_fraction)
    train = _mixed(train, config.seed)
    if not train:
        raise DataError("the mixture weights leave no training document; raise them or give more text")
    tokenizer = given or _train_tokenizer(config.vocab_size, train)
    tokenizer.save(directory / "tokenizer")
    builder = IndexBuilder("pretrain")
    shards = {
        "train": write_shards(
            counted(train, Ticker("data: documents encoded"), len(train)),
            tokenizer,
            directory / "train",
            seen=lambda document, tokens: add_document(builder, document, tokens, tokenizer),
        ),
        "heldout": write_shards(heldout, tokenizer, directory / "heldout"),
    }
    packed = file_sha256(directory / "train" / "shard.json")
    builder.finish(shards["train"].num_tokens, packed).write(directory / INDEX)
    notes = ("so few documents that one was moved to fill an empty side of the split",) if forced else ()
    card = DataCard(
        read_documents=report.documents,
        read_bytes=report.num_bytes,
        dropped={**report.skipped, **dropped},
        train=count_slices(shards["train"]),
        heldout=count_slices(shards["heldout"]),
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        notes=notes,
        settings=config.to_dict(),
    )
    _log.info(
        f"data: {shards['train'].num_tokens:,} training and {shards['heldout'].num_tokens:,} held-out tokens"
    )
    write_json(directory / "card.json", card.to_dict())


def _read(config: DataConfig, reading: Reading) -> list[Document]:
    return list(counted(read_sources(config.sources, reading), Ticker("data: documents read")))


def _open(directory: Path, config: DataConfig) -> Prepared:
    """Check and map a finished directory."""
    tokenizer = Tokenizer.load(directory / "tokenizer")
    train = open_shards(directory / "train", tokenizer, verify=True)
    heldout = open_shards(directory / "heldout", tokenizer, verify=True)
    seen = ContaminationIndex.open(directory / INDEX).header
    if (seen.tokens, seen.data) != (train.num_tokens, file_sha256(directory / "train" / "shard.json")):
        raise DataError(f"{directory / INDEX}: is of other text than the shards")
    try:
        card = DataCard.from_dict(read_json(directory / "card.json", error=DataError))
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{directory / 'card.json'}: is damaged ({error!r})") from None
    if (card.train, card.heldout) != (count_slices(train), count_slices(heldout)):
        raise DataError(f"{directory / 'card.json'}: counts other documents than the shards hold")
    return Prepared(directory, tokenizer, train, heldout, card, config.row_length, reused=True)


def _mixed(documents: Sequence[Document], seed: int) -> list[Document]:
    """Each document as often as its weight says, in a seeded order that mixes the slices.

    The fraction of a weight keeps a document or not by its content, so the choice does not depend on the
    order.
    """
    copies = [
        document
        for document in documents
        for _ in range(int(document.weight) + (place("weight " + document.text) < document.weight % 1))
    ]
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(copies))
    return [copies[index] for index in order]


def _train_tokenizer(vocab_size: int, train: Sequence[Document]) -> Tokenizer:
    def sample() -> Iterator[str]:
        left = _TRAIN_SAMPLE_BYTES
        for document in train:
            if left <= 0:
                return
            text = document.text[:_TRAIN_DOCUMENT_CHARS]
            left -= len(text.encode())
            yield text

    tokenizer = Tokenizer.train(sample(), vocab_size, starts_texts=True)
    _log.info(f"data: trained a tokenizer of {tokenizer.vocab_size:,} ids")
    return tokenizer
