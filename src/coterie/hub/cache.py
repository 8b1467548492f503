"""Hugging Face's cache on this machine: where a model's revisions are, and how one gets there."""

from __future__ import annotations

import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coterie.config import CheckpointError
from coterie.config.files import write_text
from coterie.hub.failures import HubError, hub_error
from coterie.hub.fetch import fetch_all, missing_bytes, require_space, right_digest
from coterie.hub.listing import Listing, RemoteFile, list_directory, list_files, needed_files
from coterie.hub.names import HubName, HubRevision, is_commit
from coterie.report.words import size

_log = logging.getLogger("coterie")
_SNAPSHOT = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cache_directory() -> Path:
    """The folder of the cache (HF_HUB_CACHE, or `hub` below HF_HOME); it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage_of(repo: str) -> Path:
    """The folder of one model in the cache: `blobs`, `refs` and `snapshots`."""
    return cache_directory() / f"models--{repo.replace('/', '--')}"


def snapshot_of(listing: Listing) -> Path:
    """The directory of a revision in the cache; it may not exist."""
    return storage_of(listing.name.repo) / "snapshots" / listing.commit


def missing_in_cache(listing: Listing, wanted: list[RemoteFile]) -> int:
    """Bytes of the wanted files that are still to be fetched."""
    return missing_bytes(_blobs(listing, _lacking(listing, wanted)))


def obtain(name: HubName, weights: bool = True, files: tuple[str, ...] = ()) -> Path:
    """The directory of a model in the cache, downloaded where the hub has something newer; or its GGUF file.

    `weights`: False for the small files alone. `files`: GGUF files by name. Where the hub cannot be reached,
    the revision in the cache is used, and a message says so.
    Errors: `HubError`.
    """
    try:
        listing = list_files(name)
    except HubError as error:
        kept = cached_snapshot(name)
        if kept is None or error.final:
            raise
        _log.info("%s: %s; using revision %s from the cache", name, error.reason, kept.name[:12])
        return _opened(kept, needed_files(list_directory(name, kept), files, weights))
    wanted = needed_files(listing, files, weights)
    if not weights and any(file.name.endswith(".gguf") for file in _lacking(listing, wanted)):
        raise HubError(
            f"{name}: a GGUF file has no small parts; fetch it first: coterie pull {name}", final=True
        )
    return _opened(fill_cache(listing, wanted), wanted)


def fill_cache(listing: Listing, wanted: list[RemoteFile]) -> Path:
    """Download what the cache lacks of `wanted`; returns the snapshot's directory. Errors: `HubError`."""
    storage = storage_of(listing.name.repo)
    lacking = _lacking(listing, wanted)
    if lacking:
        blobs = _blobs(listing, lacking)
        needed = missing_bytes(blobs)
        require_space(listing, storage, needed)
        _log.info(
            "fetching %d files (%s) of %s, revision %s",
            *(len(lacking), size(needed), listing.name.repo, listing.commit[:12]),
        )
        try:
            fetch_all(listing, blobs)
            _link(listing, lacking)
        except CheckpointError:
            raise
        except Exception as error:
            raise hub_error(listing.name, error) from None
    if not is_commit(listing.name.asked):
        _remember(storage / "refs" / listing.name.asked, listing.commit)
    return snapshot_of(listing)


def cached_snapshot(name: HubName) -> Path | None:
    """The directory of a revision in the cache; None where it is not there. A commit may be shortened."""
    storage = storage_of(name.repo)
    try:
        commit = (storage / "refs" / name.asked).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = name.asked
    if not re.fullmatch("[0-9a-f]{7,40}", commit):
        return None
    found = [path for path in (storage / "snapshots").glob(f"{commit}*") if path.is_dir()]
    return found[0] if len(found) == 1 else None


def cached_revision(path: Path) -> HubRevision | None:
    """The revision that a directory or file is of, from its place in a cache; None outside of one."""
    absolute = path.absolute()
    for folder in (absolute, *absolute.parents):
        match = _SNAPSHOT.fullmatch(folder.parent.parent.name)
        if match is not None and folder.parent.name == "snapshots" and is_commit(folder.name):
            return HubRevision(f"{match['owner']}/{match['name']}", folder.name)
    return None


def check_cached(directory: Path) -> int:
    """Hash every file of a revision against the hash that the hub gave; how many there are.

    `directory`: of the revision, or a file in it.
    Errors: `CheckpointError` for the first that differs, and where a file is no link, which names no hash.
    """
    while directory.parent.name != "snapshots":  # from a file to its revision
        directory = directory.parent
    files = [path for path in sorted(directory.rglob("*")) if not path.is_dir()]
    for path in files:
        digest = Path(os.readlink(path)).name if path.is_symlink() else ""
        if not path.is_file() or not _DIGEST.fullmatch(digest):
            raise CheckpointError(f"{path}: is no link to a file with a hash of the hub; fetch it again")
        if not right_digest(path, digest):
            blob = path.resolve()
            raise CheckpointError(f"{path}: its hash is not the hub's; remove {blob} and fetch it again")
    return len(files)


def _lacking(listing: Listing, wanted: list[RemoteFile]) -> list[RemoteFile]:
    """Which of the wanted files the cache does not hold."""
    return [file for file in wanted if not (snapshot_of(listing) / file.name).exists()]


def _blobs(listing: Listing, files: list[RemoteFile]) -> dict[Path, RemoteFile]:
    return {storage_of(listing.name.repo) / "blobs" / file.digest: file for file in files}


def _opened(snapshot: Path, wanted: list[RemoteFile]) -> Path:
    """What to open of a snapshot: the directory, or its first GGUF file where that was chosen."""
    first = wanted[0].name if wanted else ""
    return snapshot / first if first.endswith(".gguf") else snapshot


def _link(listing: Listing, files: list[RemoteFile]) -> None:
    """Let the hub's client enter the blobs into the snapshot; it fetches what it alone can fetch."""
    from huggingface_hub import hf_hub_download

    def enter(file: RemoteFile) -> str:
        return hf_hub_download(listing.name.repo, file.name, revision=listing.commit)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, files))


def _remember(ref: Path, commit: str) -> None:
    """Write what a branch or tag means now, for when the hub cannot be reached."""
    try:
        if ref.is_file() and ref.read_text(encoding="ascii") == commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_text(ref, commit)
    except OSError as error:  # a cache that others may only read still serves
        _log.info("%s: cannot be written (%s); offline, the revision is not known", ref, error.strerror)
