"""The files of one revision of a model on the hub, and which of them a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from coterie.hub.failures import HubError, hub_error
from coterie.hub.names import HubName
from coterie.report.words import size

_TIMEOUT = 10.0  # seconds
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_PAPERS = ("LICEN[SC]E*", "NOTICE*", "USE_POLICY*", "README.md")
_CLAIMS, _RECORDS = "claims.jsonl", ("samples/", "index/")
_EVIDENCE = (_CLAIMS, "ABOUT.md")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}")
_QUANT = re.compile(r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|B?F16|F32|MXFP4\w*))$", re.IGNORECASE)
# GGUF files that are no language model: image encoders and what importance was measured from.
_OTHER_GGUF = ("mmproj", "imatrix")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a revision. `size`: bytes. `digest`: its SHA-256, or git's SHA-1 of a small file.

    `digest` is also the file's name among the blobs of the cache. It is empty for a file that is only known
    from the cache.
    """

    name: str
    size: int
    digest: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a revision. `name`: as it was asked for. `commit`: the hash that it means now."""

    name: HubName
    commit: str
    files: Sequence[RemoteFile]


def list_files(name: HubName) -> Listing:
    """Ask the hub which files a model has. Errors: `HubError`."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True, timeout=_TIMEOUT)
    except Exception as error:  # the client raises types of three libraries
        raise hub_error(name, error) from None
    files = []
    for entry in info.siblings or []:
        digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        inside = PurePosixPath(entry.rfilename)
        if entry.size is None or not digest or info.sha is None:
            raise HubError(f"{name}: the hub lists no size and hash of {entry.rfilename}; check HF_ENDPOINT")
        if not inside.is_absolute() and ".." not in inside.parts and "\\" not in entry.rfilename:
            files.append(RemoteFile(entry.rfilename, entry.size, digest))
    return Listing(name, str(info.sha), files)


def list_directory(name: HubName, directory: Path) -> Listing:
    """The files of a revision in the cache. `directory`: its snapshot, whose name is the commit."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    listed = [RemoteFile(path.relative_to(directory).as_posix(), path.stat().st_size) for path in files]
    return Listing(name, directory.name, listed)


def needed_files(listing: Listing, files: Sequence[str] = (), weights: bool = True) -> list[RemoteFile]:
    """The files that a model needs: configs, tokenizer, licence and weights; never pickle.

    `files`: GGUF files by name; of a split file, one part names all. `weights`: False for the small files
    alone. The first GGUF file, if there are any, is the first of the list.
    Errors: `HubError` when there are no weights that can be read, or several GGUF files to choose from.
    """
    papers = [file for file in listing.files if _matches(file, _PAPERS)]
    quant = listing.name.quant
    if files or quant is not None:
        return [*_chosen_gguf(listing, files), *papers]
    small = [file for file in listing.files if _matches(file, _SMALL) and not _of_pickle(file)]
    small += [file for file in listing.files if file.name.startswith("probes/")]
    if not weights:
        return small
    if any(file.name == _CLAIMS for file in listing.files):  # of a release, with what its scores rest on
        kept = [file for file in listing.files if file.name.startswith(_RECORDS)]
        small += [*(file for file in listing.files if file.name in _EVIDENCE), *kept]
    # Mistral's `consolidated` files are the same weights again, under other names.
    stored = [
        file
        for file in listing.files
        if _matches(file, ("*.safetensors",)) and not file.name.startswith("consolidated")
    ]
    if stored:
        return [*small, *papers, *stored]
    if gguf_groups(listing.files):
        return [*_chosen_gguf(listing, ()), *papers]
    pickle = next((file.name for file in listing.files if file.name.endswith(_PICKLES)), None)
    if pickle is not None:
        raise HubError(
            f"{listing.name}: has only pickle weights ({pickle}); they can run code and are refused; "
            "look for a safetensors copy",
            final=True,
        )
    raise HubError(
        f"{listing.name}: has neither safetensors nor GGUF weights; name another model", final=True
    )


def gguf_groups(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """GGUF files of language models by name without `.gguf`; the parts of a split file are one, in order."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.name):
        path = PurePosixPath(file.name)
        if path.suffix == ".gguf" and not path.name.lower().startswith(_OTHER_GGUF):
            split = _SPLIT.fullmatch(path.stem)
            groups.setdefault(str(path.parent / (split[1] if split else path.stem)), []).append(file)
    return groups


def quant_label(name: str) -> str:
    """The type that ends a name of a GGUF file without `.gguf`, such as Q4_K_M; empty where there is none."""
    match = _QUANT.search(name)
    return match[1] if match else ""


def _chosen_gguf(listing: Listing, names: Sequence[str]) -> list[RemoteFile]:
    """The named GGUF files, or those of the asked quantisation, or the only ones."""
    groups, quant = gguf_groups(listing.files), listing.name.quant
    if names:
        found = []
        for name in names:
            group = next((group for group in groups.values() if name in (file.name for file in group)), None)
            if group is None:
                raise HubError(f"{listing.name}: has no GGUF file '{name}'; {_offer(groups)}", final=True)
            found += [file for file in group if file not in found]
        return found
    matching = {
        name: group
        for name, group in groups.items()
        if quant is None or _is_quant(PurePosixPath(name), quant)
    }
    if len(matching) == 1:
        return next(iter(matching.values()))
    what = f"no GGUF file of type {quant}" if not matching else f"{len(matching)} GGUF files"
    raise HubError(f"{listing.name}: has {what}; {_offer(matching or groups)}", final=True)


def _offer(groups: dict[str, list[RemoteFile]]) -> str:
    """The end of an error: what there is to choose from, by label where labels tell the files apart."""
    if not groups:
        return "it has no GGUF files at all"
    labels = [quant_label(name) for name in groups]
    sizes = [size(sum(file.size for file in group)) for group in groups.values()]
    if all(labels) and len({label.lower() for label in labels}) == len(labels):
        return "choose with :TYPE from " + ", ".join(map("{} ({})".format, labels, sizes))
    firsts = [group[0].name for group in groups.values()]
    return "choose with --file from " + ", ".join(map("{} ({})".format, firsts, sizes))


def _is_quant(path: PurePosixPath, quant: str) -> bool:
    """Whether a name contains a type as a word: Q4_K is neither in Q4_K_M nor in IQ4_K."""
    word = rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])"
    return re.search(word, path.name, re.IGNORECASE) is not None


def _matches(file: RemoteFile, patterns: Sequence[str]) -> bool:
    return "/" not in file.name and any(fnmatchcase(file.name, pattern) for pattern in patterns)


def _of_pickle(file: RemoteFile) -> bool:
    return any(f"{kind}.index" in file.name for kind in _PICKLES)
