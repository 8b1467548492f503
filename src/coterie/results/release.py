"""What a publisher signs about a release: the record in `claims.jsonl`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coterie.config import Settings
from coterie.results.evaluation import Waiver

ReleaseSchema = Literal["coterie.release/v1"]
RELEASE_SCHEMA: ReleaseSchema = "coterie.release/v1"


class ReplayedItems(Settings):
    """Items that the publisher ran again from the released files before signing, and how many differed."""

    items: int
    differ: int


class ReleaseRecord(Settings):
    """One release. The statement's subjects are its files with their digests.

    `name`: where users find it. `version`: of coterie. `report`: digest of the report. `licence`: an SPDX
    identifier or a name. `facts`: digest of what `coterie.json` says of the model, which stays when a hub's
    client writes that file anew. `endpoints`: servers that serve these weights.
    """

    schema_name: ReleaseSchema = RELEASE_SCHEMA
    name: str
    created: str
    version: str
    report: str
    licence: str
    licence_file: str
    facts: str | None = None
    routed: bool = False
    waivers: list[Waiver] = Field(default_factory=list)
    endpoints: list[str] = Field(default_factory=list)
    replayed: ReplayedItems | None = None
