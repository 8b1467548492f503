"""Download files of the hub so that a stop or a kill at any moment loses at most the last few megabytes.

The hub's client (2.4) resumes within one call but removes what it has when the call ends, and a killed one
leaves a file that no later call finds. So bytes go to `NAME.coterie.incomplete` here, by the client's own
`http_get`; the file gets its name when it is whole and its hash is the hub's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from coterie.config.files import file_sha256
from coterie.config.temporaries import locked, sync
from coterie.hub.failures import HubError, hub_error
from coterie.hub.listing import Listing, RemoteFile
from coterie.hub.meter import Halted, Meter
from coterie.report.words import size

_log = logging.getLogger("coterie")

_AT_ONCE = 4
_INCOMPLETE = ".coterie.incomplete"


def partial_of(target: Path) -> Path:
    """Where the bytes of `target` are until it is whole."""
    return target.with_name(target.name + _INCOMPLETE)


def missing_bytes(wanted: Mapping[Path, RemoteFile]) -> int:
    """Bytes that are still to be fetched. `wanted`: target -> file."""
    return sum(file.size - _held(target, file) for target, file in wanted.items())


def require_space(listing: Listing, folder: Path, needed: int) -> None:
    """Refuse a download that the disk cannot hold. Errors: `HubError` with both numbers."""
    free = free_bytes(folder)
    if needed > free:
        raise HubError(
            f"{listing.name}: needs {size(needed)} more, and the disk of {folder} has {size(free)} free; "
            "free space, or choose another place (--to, HF_HOME)",
            final=True,
        )


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def fetch_all(listing: Listing, wanted: Mapping[Path, RemoteFile]) -> None:
    """Download files, several at once. `wanted`: target -> file; whole targets are left alone.

    Errors: `HubError` for the first that fails; what has arrived of the others is kept for the next call.
    """
    wanted = {target: file for target, file in wanted.items() if _held(target, file, whole=True) < file.size}
    meter = Meter(f"fetching {listing.name}", sum(file.size for file in wanted.values()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(_fetch, listing, file, target, meter) for target, file in wanted.items()]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException as error:
            meter.halt()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, Exception):
                raise hub_error(listing.name, error) from None
            raise


def right_digest(path: Path, digest: str) -> bool:
    """Whether a file has a hash of the hub: a SHA-256 (64 digits), or git's SHA-1 of a blob (40)."""
    if len(digest) == 64:
        return file_sha256(path) == digest
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest() == digest


def _held(target: Path, file: RemoteFile, whole: bool = False) -> int:
    """Bytes of a file that are here, at most all; `whole`: those of an unfinished download do not count."""
    if target.is_file() and target.stat().st_size == file.size:
        return file.size
    partial = partial_of(target)
    return 0 if whole or not partial.is_file() else min(file.size, partial.stat().st_size)


def _fetch(listing: Listing, file: RemoteFile, target: Path, meter: Meter) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    with partial.open("ab") as stream:
        if not locked(stream.fileno()):
            raise HubError(
                f"{listing.name}: another process is fetching {file.name}; wait for it", final=True
            )
        if stream.tell() > file.size:
            stream.truncate(0)
        meter.keep(stream.tell())
        try:
            _receive(listing, file, stream, meter)
        except HfHubHTTPError as error:
            if file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE or stream.tell():
                raise
            _log.info(
                "%s: is given to the hub's own client alone (%s), which cannot resume it", file.name, error
            )
            partial.unlink()
            return
    if not right_digest(partial, file.digest):
        partial.unlink()
        raise HubError(
            f"{listing.name}: the hash of {file.name} is not the one that the hub states, so it was removed; "
            "run it again",
            final=True,
        )
    sync(partial)
    os.replace(partial, target)


def _receive(listing: Listing, file: RemoteFile, stream: Any, meter: Meter) -> None:
    """Append the missing bytes. A connection that breaks is opened again while each one brings something.

    A large file comes in pieces: one answer holds up to 50 GB.
    """
    import httpx2
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(listing.name.repo, file.name, revision=listing.commit)
    headers = build_hf_headers(library_name="coterie", headers={"Accept-Encoding": "identity"})
    while True:
        before = stream.tell()
        end = min(file.size, before + constants.MAX_HTTP_DOWNLOAD_SIZE)
        if end < file.size:
            headers["Range"] = f"bytes=0-{end - 1}"  # the client puts the place to go on from into it
        else:
            headers.pop("Range", None)
        try:
            bar: Any = meter.bar
            http_get(
                url,
                stream,
                resume_size=before,
                headers=headers,
                expected_size=end,
                displayed_filename=file.name,
                tqdm_class=bar,
            )
            if end == file.size:
                return
        except Halted:
            raise
        except httpx2.ReadError:
            if stream.tell() == before:
                raise
