"""What a run writes about its text: the index of its stage, next to those of earlier stages.

A model's manifest names the stages behind it under "training", each with the digest of its index; the files
are in the folder `index` of the run. So a later stage carries the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.adapters.files import is_adapter
from coterie.adapters.trainable import Tuned
from coterie.checkpoints.commit import MANIFEST, read_manifest
from coterie.config.errors import DataError
from coterie.config.method_run import MethodRun
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.lineage import (
    FOLDER,
    SUFFIX,
    TRAINING,
    TrainedStage,
    file_of,
    find,
    keep,
    named_stage,
    near,
    plain,
    stages_of,
)
from coterie.contamination.sketch import SketchKey
from coterie.results.contamination import IndexFacts

Searched = list[tuple[IndexFacts, ContaminationIndex | None]]


def trained(
    out: str | Path,
    stage: str,
    index: ContaminationIndex,
    trained_tokens: int,
    parent: str | Path | None = None,
) -> dict[str, Any]:
    """Keep the index of a finished stage and those of its parent in a run's folder.

    Returns what the manifest of the run's model must say. `trained_tokens`: that the trainer consumed.
    `parent`: the directory of the model that the stage began with (None: it began with nothing).
    Errors: `DataError` where the trainer consumed tokens of a text without any.
    """
    if trained_tokens and not index.header.tokens:
        raise DataError(f"{out}: trained on {trained_tokens:,} tokens, and its index has seen none")
    folder = Path(out) / FOLDER
    if index.path is None:
        path = folder / f"{stage}{SUFFIX}"
        index.write(path)
        entry = named_stage(stage, ContaminationIndex.open(path), trained_tokens)
        path.replace(file_of(entry, folder))
    else:
        entry = named_stage(stage, index, trained_tokens)
        keep(entry, index.path, folder)
    earlier = [] if parent is None else _earlier(Path(parent), folder)
    return {TRAINING: plain([*earlier, entry])}


def trained_method(
    config: MethodRun, tuned: Tuned, index: ContaminationIndex, trained_tokens: int
) -> dict[str, Any]:
    """`trained` for a run that begins with a model or an adapter; the stage is the index's."""
    parent = Path(config.model) if is_adapter(config.model) else tuned.base
    return trained(config.out, index.header.stage, index, trained_tokens, parent)


def _earlier(parent: Path, folder: Path) -> list[TrainedStage]:
    """The stages of the parent; the files of their indexes are kept in `folder` where they are found."""
    stages = stages_of(manifest_of(parent), str(parent))
    for stage in stages:
        path = find(stage, near(parent))
        if path is not None:
            keep(stage, path, folder)
    return stages


def manifest_of(directory: Path) -> Mapping[str, Any]:
    """The manifest of a model, or nothing for one that coterie did not write."""
    return read_manifest(directory) if (directory / MANIFEST).is_file() else {}


def searched(target: str | Path, more: list[str] | None = None, key: SketchKey | None = None) -> Searched:
    """Every stage of what a user names: an index, the directory of a run, a model or an adapter.

    `more`: further files or folders of indexes. A stage whose index is not found has None.
    Errors: `DataError` for a target without any index.
    """
    path = Path(target).expanduser()
    if path.is_file():
        return [_opened(path, key)]
    if not path.is_dir():
        raise DataError(f"{target}: no such index, run or model; build an index with `coterie index build`")
    model = next(
        (path / name for name in ("model", "adapter", "patch") if (path / name / MANIFEST).is_file()), path
    )
    if (model / MANIFEST).is_file():
        stages = stages_of(manifest_of(model), str(model))
        given = [Path(one) for one in more or []]
        folders = [*near(model), *(one if one.is_dir() else one.parent for one in given)]
        found: Searched = []
        for stage in stages:
            file = find(stage, folders)
            index = None if file is None else ContaminationIndex.open(file, key)
            found.append((stage.facts(index), index))
        return found
    files = sorted(
        {*path.glob(f"*{SUFFIX}"), *path.glob(f"{FOLDER}/*{SUFFIX}"), *path.glob(f"data/*/*{SUFFIX}")}
    )
    if not files:
        raise DataError(
            f"{target}: holds neither an index nor a model that names one; build one with "
            "`coterie index build`"
        )
    return [_opened(file, key) for file in files]


def _opened(path: Path, key: SketchKey | None) -> tuple[IndexFacts, ContaminationIndex]:
    index = ContaminationIndex.open(path, key)
    return named_stage(index.header.stage, index, 0).facts(index), index
