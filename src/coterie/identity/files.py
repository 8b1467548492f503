"""The digest of the files that a user downloads to have a model: its weights and its config.json."""

from __future__ import annotations

from pathlib import Path

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import file_digests
from coterie.checkpoints.gguf_file.split import read_headers
from coterie.checkpoints.locate import INDEX, weight_files
from coterie.evidence.canonical import digest_of


def weights_files(path: str | Path | Checkpoint) -> str:
    """Digest over the names and SHA-256 of the weight files, their index and config.json, as `sha256:...`.

    It changes when the same tensors are spread over other files (`weight_tree` does not). Reads every byte.
    Errors: `CheckpointError` for what is not a whole checkpoint.
    """
    checkpoint = Checkpoint.open(path)
    if checkpoint.gguf is not None:
        folder = checkpoint.path.parent
        names = [header.path.name for header in read_headers(checkpoint.path)]
    else:
        folder = checkpoint.path
        small = [name for name in ("config.json", INDEX) if (folder / name).is_file()]
        names = [*small, *(file.relative_to(folder).as_posix() for file in weight_files(folder))]
    found = file_digests(folder, sorted(names))
    return digest_of([[name, found[name]] for name in sorted(found)])
