"""Where models are on this machine: revisions of the hub's cache, directories, GGUF files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.config import CheckpointError
from coterie.hub.cache import cache_directory
from coterie.hub.failures import HubError
from coterie.hub.listing import RemoteFile, gguf_groups, list_directory, quant_label
from coterie.hub.names import MAIN, HubName, is_commit

_MARKS = ("config.json", "adapter_config.json", "patch.json")


@dataclass(frozen=True)
class FoundModel:
    """One model. `name`: what commands call it. `path`: its directory or GGUF file; None where nothing is.

    `size`: bytes on disk. `commit`: of the hub, or "". `problem`: why there is no path.
    """

    name: str
    path: Path | None
    size: int
    commit: str = ""
    problem: str = ""


def cached_places() -> Iterator[FoundModel]:
    """Every model of the hub's cache, one for each revision and GGUF file, by name. Damage is a `problem`."""
    for folder in sorted(cache_directory().glob("models--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        if HubName.parse(repo) is None:  # names without an owner are of the hub's first years
            yield FoundModel(repo, None, 0, problem=f"is no name that commands take; remove {folder}")
            continue
        try:
            revisions = sorted(path for path in (folder / "snapshots").iterdir() if is_commit(path.name))
        except OSError:
            revisions = []
        if not revisions:
            waiting = sum(part.stat().st_size for part in (folder / "blobs").glob("*.incomplete"))
            problem = "its download was stopped; run coterie pull" if waiting else "holds no revision"
            yield FoundModel(repo, None, waiting, problem=problem)
        named = _references(folder / "refs")
        for revision in revisions:
            branches = named.get(revision.name, [])
            asked = None if MAIN in branches else branches[0] if branches else revision.name[:12]
            yield from _of_revision(HubName(repo, asked), revision)


def local_places(path: Path) -> Iterator[FoundModel]:
    """The models at a path: a GGUF file, a directory, or those directly inside one.

    Errors: `CheckpointError` for a path that does not exist, or holds no model.
    """
    if path.is_file():
        yield FoundModel(str(path), path, path.stat().st_size)
        return
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; give one that holds models, or nothing")
    inside = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    found = [place for folder in inside for place in _in_directory(folder)]
    if not found:
        raise CheckpointError(f"{path}: holds no model, nor do the directories inside it")
    yield from found


def remove_cached(name: HubName) -> int:
    """Delete a model from the cache, or one revision of it where one is named; the bytes that this freed.

    Errors: `HubError` where the cache does not hold it.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(cache_directory())
    except CacheNotFound:
        raise HubError(f"{name}: there is no cache at {cache_directory()}") from None
    commits = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_id == name.repo and repo.repo_type == "model"
        for revision in repo.revisions
        if name.revision is None or name.revision in revision.refs or _begins(revision.commit_hash, name)
    ]
    if not commits:
        raise HubError(f"{name}: is not in the cache, or damaged there; see {cache_directory()}")
    strategy = cache.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size


def _begins(commit: str, name: HubName) -> bool:
    return len(name.asked) >= 7 and commit.startswith(name.asked)


def _references(folder: Path) -> dict[str, list[str]]:
    """Commit -> the branches and tags that mean it; what cannot be read means nothing."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        try:
            commit = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        found.setdefault(commit, []).append(path.relative_to(folder).as_posix())
    return found


def _of_revision(name: HubName, directory: Path) -> Iterator[FoundModel]:
    """A revision's directory, and each GGUF file in it."""
    files = list_directory(name, directory).files
    groups = gguf_groups(files)
    for stem, group in groups.items():
        label = quant_label(stem)
        text = f"{name}:{label}" if label else str(directory / group[0].name)
        yield FoundModel(text, directory / group[0].name, _size(group), directory.name)
    others = [file for file in files if not file.name.endswith(".gguf")]
    if not groups or any(mark in (file.name for file in others) for mark in _MARKS):
        yield FoundModel(str(name), directory, _size(others), directory.name)


def _in_directory(directory: Path) -> Iterator[FoundModel]:
    files = [file for file in directory.iterdir() if file.is_file()]
    listed = [RemoteFile(file.name, file.stat().st_size) for file in files]
    for group in gguf_groups(listed).values():
        path = directory / group[0].name
        yield FoundModel(str(path), path, _size(group))
    if any((directory / mark).is_file() for mark in _MARKS):
        others = [file for file in listed if not file.name.endswith(".gguf")]
        yield FoundModel(str(directory), directory, _size(others))


def _size(files: Sequence[RemoteFile]) -> int:
    return sum(file.size for file in files)
