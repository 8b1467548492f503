"""Write a release: the model's files in the layout of the hub, with card, report, records and statements.

Everything is written under another name, checked as a receiver would check it, and renamed.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST
from coterie.config import CheckpointError, CoterieError
from coterie.evidence.claims import CLAIMS, append_claim
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import sign_statement
from coterie.release.card import render_card
from coterie.release.check import check_release
from coterie.release.gate import Case
from coterie.release.layout import (
    ABOUT,
    CARD,
    INDEXES,
    RELEASE,
    SBOM,
    TENSORS,
    TREE,
    card_facts,
    facts_digest,
    new_directory,
    released_files,
)
from coterie.release.report_files import REPORT
from coterie.release.sbom import bill_of_materials
from coterie.results.evaluation import Waiver
from coterie.results.release import ReleaseRecord, ReplayedItems

_OURS = {CARD, ABOUT, TREE, SBOM, REPORT, CLAIMS}
_SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors")
_LICENCES = {
    "apache-2.0": r"Apache License\s+Version 2\.0",
    "mit": r"\bMIT License\b",
    "bsd-3-clause": r"BSD 3-Clause",
}


@dataclass(frozen=True)
class Publication:
    """What a publisher adds to the evidence. `name`: where users will find the model.

    `licence`: an SPDX identifier or a name; None: as its text says. `about`: prose for the card.
    """

    key: SigningKey
    name: str
    licence: str | None = None
    about: str = ""
    waivers: Sequence[Waiver] = ()
    replayed: ReplayedItems | None = None


def licence_name(text: str) -> str:
    """The identifier of a well-known licence's text; `other` for the rest."""
    return next((name for name, mark in _LICENCES.items() if re.search(mark, text[:2000])), "other")


def licence_of(directory: Path) -> Path | None:
    """The licence file of a model's directory."""
    found = sorted(path for path in directory.glob("*") if re.match(r"(?i)licen[sc]e(\.|$)", path.name))
    return found[0] if found else None


def write_bundle(out: Path, case: Case, published: Publication) -> ReleaseRecord:
    """Write the new directory `out`; what it says is checked before it gets its name.

    Errors: `CheckpointError` for an output that exists or cannot be written; `CoterieError` where the written
    files do not pass the check.
    """
    with new_directory(out) as folder:
        record = _fill(folder, case, published)
        checked = check_release(folder, [published.key.public, *case.keys])
        if checked.refusals:
            raise CoterieError(f"{out}: was not written; {checked.refusals[0]}")
    return record


def _fill(folder: Path, case: Case, published: Publication) -> ReleaseRecord:
    checkpoint, evidence = case.checkpoint, case.evidence
    assert case.licence is not None  # a rule of the gate
    for file in model_files(checkpoint):
        _copy(checkpoint.path / file, folder / file)
    _copy(evidence.path, folder / REPORT)
    for task in evidence.report.tasks:
        _copy(evidence.folder / task.samples.path, folder / task.samples.path)
    for index in case.indexes:
        _copy(index, folder / INDEXES / index.name)
    _copy(case.licence, folder / case.licence.name)
    if published.about:
        (folder / ABOUT).write_text(published.about, encoding="utf-8")
    for envelope in evidence.claims:
        append_claim(folder / CLAIMS, envelope)
    licence = published.licence or licence_name(case.licence.read_text(encoding="utf-8", errors="replace"))
    record = ReleaseRecord(
        name=published.name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=importlib.metadata.version("coterie"),
        report=evidence.digest,
        licence=licence,
        licence_file=case.licence.name,
        facts=facts_digest(checkpoint),
        routed=checkpoint.config.is_moe,
        waivers=list(published.waivers),
        endpoints=list(case.endpoints),
        replayed=published.replayed,
    )
    _write_json(folder / TREE, case.found.to_dict())
    _write_json(folder / SBOM, bill_of_materials(evidence.report, licence))
    facts = card_facts(record, case, published.key.public, published.about)
    (folder / CARD).write_text(render_card(facts), encoding="utf-8")
    subjects = released_files(folder) | {TENSORS: case.found.root}
    append_claim(folder / CLAIMS, sign_statement(published.key, subjects, RELEASE, record))
    return record


def model_files(checkpoint: Checkpoint) -> list[str]:
    """The model's files that a release copies, as paths inside its directory; never a card or a report."""
    folder = checkpoint.path
    if checkpoint.gguf is not None:
        raise CheckpointError(f"{folder}: is a GGUF file; release the directory that it was made from")
    listed = checkpoint.manifest.get("files")
    if listed is not None:
        names = [MANIFEST, *listed]
    else:
        names = [path.name for path in folder.iterdir() if path.is_file() and path.suffix in _SMALL]
    ours = sorted(set(names) & _OURS)
    if listed is not None and set(listed) & _OURS:
        raise CheckpointError(
            f"{folder}: {MANIFEST} lists {ours[0]}, which a release writes anew; take the model as it was "
            "before it was released"
        )
    return sorted(set(names) - _OURS)


def sign_waivers(key: SigningKey, given: Mapping[str, str]) -> list[Waiver]:
    """Waivers by the holder of a key. `given`: flag -> reason. Errors: `CoterieError` for an empty reason."""
    for flag, reason in given.items():
        if not reason.strip():
            raise CoterieError(f"--waive {flag}: needs a reason, which the card prints")
    return [Waiver(flag=flag, reason=reason.strip(), by=key.key_id) for flag, reason in given.items()]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
