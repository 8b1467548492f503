"""Check one directory against what it says about itself: its hashes and its stored probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coterie.adapters.apply import apply_in_place, base_of, is_variant
from coterie.adapters.patch import is_patch
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, verify_directory
from coterie.config import CoterieError
from coterie.proof.difference import Difference
from coterie.proof.judge import check_record


@dataclass(frozen=True)
class StoredCheck:
    """What passed: an expert patch names its `base` and has no probes; anything else has a `difference`."""

    base: Path
    difference: Difference | None


def check_stored(path: str, tell: Callable[[str], None] = lambda line: None) -> StoredCheck:
    """Check a model or an adapter by its manifest and stored probes, a patch by its hashes and its base's.

    Errors: `CoterieError` with `exit_code` 2 for what cannot be checked (missing, no probes, another base),
    and with 1 for what is not as it was saved.
    """
    try:
        variant, patch = is_variant(path), is_patch(path)
        own = Checkpoint.open(Path(path).expanduser() if variant else path)
        if not patch and own.probes is None:
            raise CoterieError(
                f"{path}: holds no probes; give a second model to compare with, or save this one with probes"
            )
        loaded = (Checkpoint.open(base_of(path)) if variant else own).load()
        if variant:
            apply_in_place(loaded.model, own.path, loaded.path, loaded.tokenizer)
    except CoterieError as error:
        error.exit_code = 2
        raise
    if patch:
        return StoredCheck(loaded.path, None)
    if (own.path / MANIFEST).is_file():
        tell("hashing files")
        verify_directory(own.path)
    assert own.probes is not None
    return StoredCheck(loaded.path, check_record(own.probes, loaded.model, loaded.tokenizer, own.path))
