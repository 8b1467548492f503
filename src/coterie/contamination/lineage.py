"""The stages of training behind a model, as its manifest names them: each with the digest of its index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from coterie.config.base import Settings
from coterie.config.errors import ConfigError, DataError
from coterie.config.files import file_sha256
from coterie.config.temporaries import replace_with, temporary
from coterie.contamination.index import ContaminationIndex
from coterie.results.contamination import IndexFacts

TRAINING = "training"  # the key of the manifest
FOLDER, SUFFIX = "index", ".index"  # where a run keeps the indexes of its model's stages
EARLIER = "earlier"


class TrainedStage(Settings):
    """One stage. `index`: SHA-256 of its index; None where there is none, and `why`.

    `data`: what names the packed data. `tokens`: of the packed text, all of which the index has seen.
    `trained_tokens`: that the trainer consumed, over all epochs. `coverage`: indexed over packed tokens.
    """

    stage: str
    index: str | None = None
    data: str | None = None
    documents: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0)
    trained_tokens: int = Field(0, ge=0)
    coverage: float = Field(0.0, ge=0, le=1)
    why: str = ""

    def facts(self, index: ContaminationIndex | None) -> IndexFacts:
        """What a search says of this stage. `index`: None where its file is not there."""
        return IndexFacts(
            stage=self.stage,
            digest=self.index if index is not None else None,
            kind="none" if index is None else index.header.kind,
            documents=self.documents,
            tokens=self.tokens,
            coverage=self.coverage if index is not None else 0.0,
        )


def stages_of(manifest: Mapping[str, Any], where: str) -> list[TrainedStage]:
    """The stages that a manifest names, the earliest first.

    A manifest without them is of a model whose training is not known: one stage without an index.
    Errors: `DataError` for an entry that cannot be used.
    """
    given = manifest.get(TRAINING)
    if given is None:
        return [TrainedStage(stage=EARLIER, why="nothing says what it was trained on")]
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: '{TRAINING}' is not a list of stages; use another checkpoint")
    try:
        return [TrainedStage.from_dict(entry, f"{where}: {TRAINING}") for entry in given]
    except ConfigError as error:
        raise DataError(str(error)) from None


def gaps(stages: Sequence[TrainedStage]) -> list[str]:
    """One line for each stage of which an index does not know all text; a release needs none of these."""
    lines = []
    for stage in stages:
        if stage.index is None:
            lines.append(f"stage {stage.stage} has no index{f': {stage.why}' if stage.why else ''}")
        elif stage.coverage < 1:
            lines.append(f"the index of stage {stage.stage} has seen {stage.coverage:.1%} of its tokens")
        elif stage.trained_tokens and not stage.tokens:
            lines.append(
                f"stage {stage.stage} trained on {stage.trained_tokens:,} tokens and its index has none"
            )
    return lines


def joined(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the manifest of a model says that was made of several, such as a base and adapters.

    Every stage once, in order; nothing where none of them names stages.
    """
    found: list[Any] = []
    for manifest in manifests:
        found += [stage for stage in manifest.get(TRAINING) or [] if stage not in found]
    return {TRAINING: found} if found else {}


def named_stage(stage: str, index: ContaminationIndex, trained_tokens: int) -> TrainedStage:
    """A stage by the index that was written for it. `trained_tokens`: that the trainer consumed.

    Its coverage is 1, because `IndexBuilder.finish` has compared the counts.
    """
    header = index.header
    counts = {name: getattr(header, name) for name in ("data", "documents", "tokens")}
    return TrainedStage(
        stage=stage, index=index.digest, trained_tokens=trained_tokens, coverage=1.0, **counts
    )


def file_of(stage: TrainedStage, folder: Path) -> Path:
    """Where a folder keeps the index of a stage."""
    return folder / f"{stage.stage}-{(stage.index or '')[:16]}{SUFFIX}"


def keep(stage: TrainedStage, path: Path, folder: Path) -> Path:
    """Put the index of a stage into the folder of a run: as a link where the file system has them.

    Errors: `OSError` when the system refuses.
    """
    target = file_of(stage, folder)
    if target.exists() and file_sha256(target) == stage.index:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with temporary(target) as part:
        part.unlink()
        try:
            os.link(path, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, part)
        replace_with(part, target)
    return target


def find(stage: TrainedStage, folders: Iterable[Path]) -> Path | None:
    """The file of a stage's index in one of several folders, recognised by its digest."""
    if stage.index is None:
        return None
    for folder in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            named = path.name.endswith(f"-{stage.index[:16]}{SUFFIX}")
            if path.is_file() and (named or "-" not in path.name) and file_sha256(path) == stage.index:
                return path
    return None


def near(model: Path) -> list[Path]:
    """Where the indexes of a model may be: in its directory, and in that of the run that made it."""
    return [model / FOLDER, model.parent / FOLDER, model, model.parent]


def plain(stages: Sequence[TrainedStage]) -> list[dict[str, Any]]:
    """The stages as the manifest holds them."""
    return [stage.to_dict() for stage in stages]
