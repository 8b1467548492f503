"""What `coterie release` does with paths: read what is given, ask the gate, write, check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError, CoterieError
from coterie.evidence.claims import CLAIMS, append_claim
from coterie.evidence.keys import SigningKey, read_public_key
from coterie.evidence.statements import EVAL_REPORT, sign_statement
from coterie.release.bundle import Publication, licence_of, sign_waivers, write_bundle
from coterie.release.card import rendered_by
from coterie.release.check import CheckedRelease, check_endpoint, check_release
from coterie.release.gate import Case, Refusal, refusals
from coterie.release.layout import CARD, TENSORS
from coterie.release.report_files import REPORT, ReportFiles
from coterie.remote.client import is_url
from coterie.results.release import ReplayedItems

_HUB = "https://huggingface.co/"
# (the report's folder, the model, items of each task) -> what was run, and what speaks against the report
Replay = Callable[[Path, str, int], tuple[ReplayedItems, Sequence[str]]]


@dataclass(frozen=True)
class PublishRequest:
    """What a publisher gives. `out`: None: only ask the gate. `items`: that are run again before signing."""

    model: str
    report: str
    key: str
    out: str | None = None
    name: str | None = None
    about: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    waive: Mapping[str, str] = field(default_factory=dict)
    indexes: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    ledger: str | None = None
    public: Sequence[str] = ()
    items: int = 60


@dataclass(frozen=True)
class PublishOutcome:
    """What came of it. `out`: the release, None where it was refused or not asked for."""

    name: str
    out: Path | None
    public: str
    refusals: list[Refusal]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "name": self.name,
            "released": None if self.out is None else str(self.out),
            "reasons": [{"rule": one.rule, "says": one.says} for one in self.refusals],
            "notes": self.notes,
        }


def publish(asked: PublishRequest, replay: Replay | None = None) -> PublishOutcome:
    """Ask the gate, and write the release where it is let through.

    `replay`: runs items of the report again; it is above this layer. Nothing is run where the gate refuses.
    Errors: `CoterieError`, one line, for a model, report or key that cannot be read.
    """
    key = SigningKey.read(asked.key)
    checkpoint = Checkpoint.open(asked.model)
    evidence = ReportFiles.read(asked.report)
    about = "" if asked.about is None else _prose(Path(asked.about))
    waivers = sign_waivers(key, asked.waive)
    prose = {} if asked.about is None else {Path(asked.about).name: about}
    old = checkpoint.path / CARD
    notes = []
    if old.is_file() and rendered_by(text := _prose(old)) is None:
        prose[CARD] = text
        notes.append(f"{old} is replaced by the card of the report; give prose with --about")
    case = Case(
        checkpoint,
        evidence,
        [key.public, *map(read_public_key, asked.public)],
        waivers,
        licence=licence_of(checkpoint.path) if asked.licence is None else Path(asked.licence),
        prose=prose,
        indexes=list(map(Path, asked.indexes)),
        endpoints=asked.endpoints,
        ledger=None if asked.ledger is None else Path(asked.ledger),
    )
    name = asked.name or checkpoint.path.resolve().name
    found, replayed = refusals(case), None
    if replay is not None and asked.items and not found:
        replayed, differing = replay(evidence.folder, asked.model, asked.items)
        found = [Refusal("replay", line) for line in differing]
    public = f"{asked.key}.pub"
    if found or asked.out is None:
        return PublishOutcome(name, None, public, found, notes)
    published = Publication(key, name, asked.licence_name, about, waivers, replayed)
    write_bundle(Path(asked.out), case, published)
    return PublishOutcome(name, Path(asked.out), public, [], notes)


def check_target(target: str, public: Sequence[Path], report: str | None = None) -> CheckedRelease:
    """Check a directory, a hub id or page, or a server. Errors: `CoterieError` for what cannot be checked."""
    keys = [read_public_key(path) for path in public]
    if target.startswith(_HUB):
        target = target.removeprefix(_HUB).strip("/").replace("/tree/", "@")
    if is_url(target):
        if report is None:
            raise ConfigError(
                f"{target}: give --report with the release that it must serve; an address proves nothing"
            )
        return check_endpoint(target, ReportFiles.read(report))
    if not keys:
        raise ConfigError("give --public FILE.pub: a signature is checked with the publisher's key")
    return check_release(target, keys)


def sign_report(report: Path, key: Path) -> tuple[Path, str]:
    """Sign a report whose records are whole; the file of the statement and the digest of the key.

    Errors: `CoterieError`: where records are not those of the report, or it is signed already.
    """
    signer, evidence = SigningKey.read(key), ReportFiles.read(report)
    for problem in evidence.problems():
        raise CoterieError(f"{evidence.path}: was not signed; {problem}")
    weights = evidence.report.subject.weights_tensors
    subjects = {REPORT: evidence.digest} | ({TENSORS: weights} if weights else {})
    file = evidence.folder / CLAIMS
    append_claim(file, sign_statement(signer, subjects, EVAL_REPORT, evidence.report))
    return file, signer.key_id


def _prose(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})"
        ) from None
