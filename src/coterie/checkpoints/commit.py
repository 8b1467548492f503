"""Commit a directory: write it under another name, list its files with their hashes, rename it when whole.

Three steps (docs/design/commit.md): write into a temporary; list every file with its size and SHA-256 in
`coterie.json` and flush all to disk; rename. The rename is the commit, so a kill at any moment leaves either
the whole new directory or none of it. A reader takes the newest `step-NNNNNN` whose files match the list.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError

from coterie.config.errors import CheckpointError, TrainingError
from coterie.config.files import file_sha256, read_json
from coterie.config.temporaries import locked, replace_with, temporary

MANIFEST = "coterie.json"
FORMAT = 1
LOCK = "run.lock"
# Of one directory; all other keys travel with the model.
OWN_KEYS = frozenset({"format", "files", "sampled", "sha256"})
# The revision of the hub that a directory is; not true of what is made from it.
PULLED = "pulled"

_STEP = re.compile(r"step-(\d{6,})")
_log = logging.getLogger("coterie")
_SAMPLES, _BLOCK = 1024, 4096
_CHANGED = f"use another copy; if you changed it on purpose, remove {MANIFEST}, which speaks of other weights"


def commit_directory(
    final: Path, write: Callable[[Path], None], extra: Mapping[str, Any] | None = None
) -> None:
    """Create or replace the directory `final` with the files that `write` puts into the directory it gets.

    `extra`: further keys of the manifest (step, parent, data card, metrics, ...; JSON types, finite numbers).
    After an error in `write`, or a full disk, the partial directory is removed and an existing `final` is
    unchanged.
    Errors: `CheckpointError` in one line when the system refuses to write.
    """
    final = Path(os.path.abspath(final))
    reserved = OWN_KEYS & set(extra or {})
    if reserved:
        raise CheckpointError(f"{final}: the manifest keys {sorted(reserved)} are reserved; rename them")
    try:
        with temporary(final, directory=True) as folder:
            write(folder)
            _write_manifest(folder, extra or {})
            _open_to_readers(folder)
            replace_with(folder, final)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk with its own type
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise CheckpointError(
            f"{final}: was not written ({reason}); free space or choose another place"
        ) from error


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint directory, checked against its own hash.

    Errors: `CheckpointError` when the directory or its `coterie.json` is missing or damaged.
    """
    file = Path(path) / MANIFEST
    if not Path(path).is_dir():
        raise CheckpointError(f"{path}: is not a directory; give the path of a checkpoint")
    if not file.exists():
        raise CheckpointError(f"{path}: has no {MANIFEST}, so coterie did not write it, or not completely")
    manifest = read_json(file, "use another checkpoint", CheckpointError)
    if manifest.get("sha256") != _own_hash(manifest):
        raise CheckpointError(
            f"{file}: is damaged (its content does not match its own hash); use another checkpoint"
        )
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: is of format {manifest.get('format')!r}, this version reads {FORMAT}; update coterie"
        )
    wrong = _unusable_entry(manifest.get("files"), manifest.get("sampled", {}))
    if wrong is not None:
        raise CheckpointError(f"{file}: its list of files is not usable ({wrong}); use another checkpoint")
    return manifest


def _unusable_entry(listed: Any, sampled: Any) -> str | None:
    """What is wrong with a manifest's list of files; a hash over nonsense is still a right hash."""
    if not isinstance(listed, dict):
        return "it is missing"
    if not (isinstance(sampled, dict) and all(isinstance(digest, str) for digest in sampled.values())):
        return "its samples are not hashes"
    for name, entry in listed.items():
        inside = name and not name.startswith("/") and ".." not in Path(name).parts
        if not inside or "\0" in name:
            return f"{name[:80]!r} is not a name inside the directory"
        if not (isinstance(entry, list) and [type(part) for part in entry] == [int, str]):
            return f"{name[:80]!r} has no size and hash"
    return None


def travelling(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a derived directory keeps of its source's manifest: all but format, files, hash and origin."""
    return {key: value for key, value in manifest.items() if key not in OWN_KEYS and key != PULLED}


def require_free(path: Path, option: str = "path", replaces: tuple[str, str] | None = None) -> None:
    """Refuse an output that exists; an empty directory counts as free.

    `option`: the caller's name of the output, for the message ("--out"). `replaces`: (file, kind): a
    directory that holds this file is an earlier output of this kind and may be replaced.
    Errors: `CheckpointError`.
    """
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if replaces is not None and (path / replaces[0]).is_file():
        return
    what = "exists already" if replaces is None else f"exists and is not {replaces[1]}"
    raise CheckpointError(f"{path}: {what}; choose another {option} or remove it")


def verify_directory(path: Path, full: bool = True, suffix: str = "") -> int:
    """Check the listed files of a directory, `verify_files` with its manifest; how many are listed."""
    manifest = read_manifest(path)
    verify_files(Path(path), manifest, full, suffix)
    return len(manifest["files"])


def verify_files(path: Path, manifest: Mapping[str, Any], full: bool = True, suffix: str = "") -> None:
    """Check a directory's files against its manifest: their presence and sizes; SHA-256 when `full`.

    Otherwise weights are compared by samples: other weights are found and a flipped bit hardly ever, within
    milliseconds for any size. `suffix`: only files whose names end like this. Files that are not listed are
    ignored. Errors: `CheckpointError` naming the first file that differs.
    """
    chosen = {name: entry for name, entry in manifest["files"].items() if name.endswith(suffix)}
    for name, (size, _) in chosen.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing; use another checkpoint")
        found = file.stat().st_size
        if found != size:
            raise CheckpointError(f"{file}: holds {found} bytes instead of {size}; {_CHANGED}")
    sampled = manifest.get("sampled") or {}
    expected = {
        name: digest if full else sampled[name]
        for name, (_, digest) in chosen.items()
        if full or name in sampled
    }
    for name, found_hash in _hashes(path, expected, file_sha256 if full else _sampled_sha256):
        if found_hash != expected[name]:
            kind = "" if full else " of samples"
            raise CheckpointError(f"{path / name}: is damaged (its SHA-256{kind} differs); {_CHANGED}")


def file_digests(path: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 in hex of each of these files of a directory, several at once.

    Errors: `CheckpointError` for one that cannot be read.
    """
    try:
        return dict(_hashes(path, list(names), file_sha256))
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _hashes(path: Path, names: Iterable[str], digest: Callable[[Path], str]) -> Iterator[tuple[str, str]]:
    """(name, digest) of each file, in order; hashing releases the interpreter."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=4) as threads:
        yield from zip(names, threads.map(lambda name: digest(path / name), names), strict=True)


def _sampled_sha256(path: Path) -> str:
    """SHA-256 of the file's size and of evenly spaced blocks of it: of all of it up to 4 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        step = max(size // (_SAMPLES - 1), _BLOCK)
        for start in range(0, size, step):
            digest.update(os.pread(file.fileno(), _BLOCK, min(start, max(size - _BLOCK, 0))))
    return digest.hexdigest()


def step_directories(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of the committed `step-NNNNNN` directories of a run, oldest first, not verified."""
    if not Path(run_dir).is_dir():
        return []
    matches = [(_STEP.fullmatch(path.name), path) for path in Path(run_dir).iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def step_path(run_dir: Path, step: int) -> Path:
    """The directory of the checkpoint of `step` in a run."""
    return Path(run_dir) / f"step-{step:06d}"


def newest_valid(run_dir: Path) -> Path | None:
    """The newest step directory that verifies in full, or None; a warning names each newer damaged one."""
    for _, path in reversed(step_directories(run_dir)):
        try:
            verify_directory(path)
        except CheckpointError as error:
            _log.warning("checkpoint skipped, the one before it is used: %s", error)
        else:
            return path
    return None


class RunLock:
    """A context manager that lets only one process write to a run directory.

    The kernel drops the lock when its holder ends, however it ends; the process id in the file is only for
    the message.
    Errors: `TrainingError` naming the process that holds the lock, or a directory that cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / LOCK
        self._file: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TrainingError(
                f"{self.path.parent}: cannot be written ({error.strerror}); choose another 'out'"
            ) from None
        if not locked(descriptor):
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise TrainingError(
                f"{self.path.parent}: process {holder} is already running here; choose another 'out' or wait"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._file = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: without it, a third process could lock a new file while a second holds the old one.
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write_manifest(directory: Path, extra: Mapping[str, Any]) -> None:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    listed = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, file_sha256(path)] for path in files
    }
    sampled = {name: _sampled_sha256(directory / name) for name in listed if name.endswith(".safetensors")}
    manifest: dict[str, Any] = {"format": FORMAT, **extra, "files": listed, "sampled": sampled}
    # Hash the content as a reader will see it: tuples become lists.
    manifest = json.loads(json.dumps(manifest, allow_nan=False))
    manifest["sha256"] = _own_hash(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _own_hash(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _open_to_readers(directory: Path) -> None:
    """Give every file the permissions that new files get here; safetensors writes for the owner alone."""
    allowed = directory.stat().st_mode & 0o666  # a new directory shows the umask without changing it
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | allowed)
