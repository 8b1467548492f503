"""Directories that hold a model of the hub: pull one, say which revision it is, check its hashes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.checkpoints.commit import (
    MANIFEST,
    PULLED,
    commit_directory,
    read_manifest,
    require_free,
    travelling,
    verify_directory,
)
from coterie.config import CheckpointError
from coterie.config.temporaries import remove_tree
from coterie.hub.cache import cached_revision, check_cached, storage_of
from coterie.hub.failures import hub_error
from coterie.hub.fetch import fetch_all, missing_bytes, partial_of, require_space
from coterie.hub.listing import Listing, RemoteFile
from coterie.hub.names import HubRevision, is_commit

_log = logging.getLogger("coterie")


def staging_of(directory: Path) -> Path:
    """Where the files of `directory` are until all of them are there."""
    return directory.with_name(directory.name + ".incomplete")


def pull_to(listing: Listing, files: Sequence[RemoteFile], directory: Path) -> None:
    """Put files of the hub into a new directory, whole or not at all; an earlier, stopped try goes on.

    What the cache holds is copied. The manifest lists every file with its SHA-256, and names the revision.
    Errors: `HubError`; `CheckpointError` when `directory` exists or cannot be written.
    """
    require_free(directory, "--to")
    staging = staging_of(directory)
    wanted = {staging / file.name: file for file in files}
    needed = missing_bytes(wanted)
    require_space(listing, directory, needed)
    try:
        for target, file in wanted.items():
            _copy_cached(listing, file, target)
        fetch_all(listing, wanted)
        left = [file.name for target, file in wanted.items() if not target.exists()]
        _fetch_by_client(listing, left, staging)
    except CheckpointError:
        raise
    except Exception as error:
        raise hub_error(listing.name, error) from None
    about: dict[str, Any] = {PULLED: {"repo": listing.name.repo, "commit": listing.commit}}
    files_of = dict(wanted)
    if files_of.pop(staging / MANIFEST, None) is not None:  # a directory of coterie: its facts stay
        about |= travelling(read_manifest(staging))

    def write(folder: Path) -> None:
        for target, file in files_of.items():
            place = folder / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(target, place)  # costs nothing, and a failure later leaves the download
            except OSError:
                shutil.copyfile(target, place)

    _log.info("hashing %d files", len(wanted))
    commit_directory(directory, write, about)
    remove_tree(staging)


def missing_to(files: Sequence[RemoteFile], directory: Path) -> int:
    """Bytes that `pull_to` would still put on the disk of `directory`."""
    return missing_bytes({staging_of(directory) / file.name: file for file in files})


def origin(path: Path, manifest: Mapping[str, Any]) -> HubRevision | None:
    """The revision of the hub that a directory or GGUF file is: from its place in the cache, or its manifest.

    `manifest`: of the directory; that of a file is looked for.
    """
    cached = cached_revision(path)
    if cached is not None:
        return cached
    folder = _pulled_folder(path)
    about = (manifest if folder == path else read_manifest(folder) if folder is not None else {}).get(PULLED)
    if not isinstance(about, dict):
        return None
    repo, commit = str(about.get("repo")), str(about.get("commit"))
    return HubRevision(repo, commit) if is_commit(commit) else None


def check_origin(path: Path) -> int:
    """Hash every file of a pulled directory, or of the one that a GGUF file is in; how many there are.

    Errors: `CheckpointError` for the first whose hash is not the one that the hub stated.
    """
    if cached_revision(path) is not None:
        return check_cached(path)
    return verify_directory(_pulled_folder(path) or path)


def _pulled_folder(path: Path) -> Path | None:
    """The directory with the manifest of a file: its own, or the one above; a directory is its own."""
    if path.is_dir():
        return path
    return next((folder for folder in path.absolute().parents[:2] if (folder / MANIFEST).is_file()), None)


def _copy_cached(listing: Listing, file: RemoteFile, target: Path) -> None:
    """Copy a file that the cache holds to where its bytes are awaited; its hash is checked there."""
    blob, partial = storage_of(listing.name.repo) / "blobs" / file.digest, partial_of(target)
    if blob.is_file() and blob.stat().st_size == file.size and not (target.exists() or partial.exists()):
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(blob, partial)


def _fetch_by_client(listing: Listing, names: Sequence[str], staging: Path) -> None:
    """Fetch the files that the hub gives to its own client alone."""
    from huggingface_hub import hf_hub_download

    for name in names:
        hf_hub_download(listing.name.repo, name, revision=listing.commit, local_dir=staging)
