"""Check one directory against its own records: its hashes and its stored probes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from coterie.adapters.apply import apply_in_place, base_of, is_variant, open_variant
from coterie.adapters.patch import Patch
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.pulled import check_origin
from coterie.config import CoterieError
from coterie.hub.names import HubRevision
from coterie.proof.difference import Difference
from coterie.proof.judge import check_record

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class StoredCheck:
    """What passed. `base`: the directory whose weights were used. `difference`: None without probes.

    A patch stores no probes; the hashes of its files and of its base prove it. Neither does a model of the
    hub: `origin` is then its revision, and `files` the number of files that have the hub's hashes.
    """

    base: Path
    difference: Difference | None
    origin: HubRevision | None = None
    files: int = 0


def check_stored(path: str) -> StoredCheck:
    """Check a model or an adapter by its manifest and stored probes, a patch by its hashes and its base's.

    A model of the hub without probes is checked by the hashes that the hub stated.

    Errors: `CoterieError` with `exit_code` 2 for what cannot be checked (missing, no probes, another base),
    and with 1 for files or answers that differ from those that were saved.
    """
    return _check_variant(path) if is_variant(path) else _check_model(path)


def _check_variant(path: str) -> StoredCheck:
    try:
        variant = open_variant(path)  # verifies the hashes of its files
        probes = None if isinstance(variant, Patch) else variant.probes
        if probes is None and not isinstance(variant, Patch):
            raise _without_probes(path)
        base = Checkpoint.open(base_of(path))
        model = base.load().model
        apply_in_place(model, variant, base)
    except CoterieError as error:
        error.exit_code = 2
        raise
    if probes is None:
        return StoredCheck(base.path, None)
    return StoredCheck(base.path, check_record(probes, model, base.tokenizer, Path(path)))


def _check_model(path: str) -> StoredCheck:
    try:
        own = Checkpoint.open(path)
        origin = own.origin
        if own.probes is None and origin is None:
            raise _without_probes(path)
        listed = bool(own.manifest)
    except CoterieError as error:
        error.exit_code = 2
        raise
    if own.probes is None:
        _log.info("hashing files")
        return StoredCheck(own.path, None, origin, check_origin(own.path))
    if listed:
        _log.info("hashing files")
        own.verify(suffix="")
    try:
        model = own.load().model
    except CoterieError as error:
        error.exit_code = 2
        raise
    return StoredCheck(own.path, own.check_probes(model))


def _without_probes(path: str) -> CoterieError:
    return CoterieError(
        f"{path}: holds no probes; give a second model to compare with, or save this one with probes"
    )
