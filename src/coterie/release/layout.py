"""Where things are in a release, what its signature covers, and how a directory is written whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import require_free, travelling
from coterie.config import CheckpointError
from coterie.config.files import file_sha256
from coterie.config.temporaries import replace_with, temporary
from coterie.evidence.canonical import digest_bytes
from coterie.evidence.claims import CLAIMS
from coterie.evidence.keys import PublicKey
from coterie.release.card import CardFacts
from coterie.release.gate import Case
from coterie.results.release import ReleaseRecord

RELEASE = "urn:coterie:release:v1"
CARD, ABOUT, TREE, SBOM, INDEXES = "README.md", "ABOUT.md", "weight_tree.json", "sbom.json", "index"
TENSORS = "weights_tensors"  # the subject that names the weights


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end; nothing is left after an error.

    Errors: `CheckpointError` for an output that exists or cannot be written.
    """
    require_free(out, "-o")
    try:
        with temporary(out, directory=True) as folder:
            yield folder
            replace_with(folder, out)
    except OSError as error:
        raise CheckpointError(
            f"{out}: was not written ({error.strerror}); free space or choose another place"
        ) from error


def card_facts(record: ReleaseRecord, case: Case, key: PublicKey, about: str) -> CardFacts:
    """What the card of a release is rendered from."""
    return CardFacts(
        report=case.evidence.report,
        name=record.name,
        licence=record.licence,
        licence_file=record.licence_file,
        key=key.key_id,
        manifest=case.checkpoint.manifest,
        about=about,
        routed=record.routed,
        waivers=record.waivers,
        endpoints=record.endpoints,
    )


def released_files(folder: Path) -> dict[str, str]:
    """Path inside the folder -> `sha256:...`, of every file but the statements and hidden ones."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if name != CLAIMS and not any(p.startswith(".") for p in name.split("/"))]
    return {name: f"sha256:{file_sha256(folder / name)}" for name in kept}


def facts_digest(checkpoint: Checkpoint) -> str | None:
    """Digest of what `coterie.json` says of the model; a client of the hub may write the rest anew."""
    if not checkpoint.manifest:
        return None
    facts: Mapping[str, Any] = travelling(checkpoint.manifest)
    return digest_bytes(json.dumps(facts, sort_keys=True).encode())
