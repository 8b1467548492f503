"""What a search of the training data for evaluation items found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coterie.config import Settings

ItemClass = Literal["clean", "contaminated", "unscannable"]
HitLabel = Literal["question_only", "question+answer", "passage_only"]
CLASSES: tuple[ItemClass, ...] = ("clean", "contaminated", "unscannable")


class IndexFacts(Settings):
    """One index that was searched. `digest`: SHA-256 of its file; None: this stage of training has no index.

    `coverage`: indexed tokens over the tokens that the stage trained on.
    """

    stage: str
    digest: str | None
    kind: Literal["exact", "sketch", "none"]
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    coverage: float = Field(ge=0, le=1)


class ItemFinding(Settings):
    """One item. `why`: the reason for its class, in words.

    `longest_run`: units of normalised text that the item certainly shares with one document, at least.
    `overlap`: the share of its fingerprints that was found, each weighted by how rare it is. `stages`: those
    whose text holds it.
    """

    id: str
    kind: ItemClass
    label: HitLabel | None = None
    longest_run: int = Field(0, ge=0)
    overlap: float = Field(0.0, ge=0, le=1)
    stages: list[str] = Field(default_factory=list)
    why: str = ""


class ContaminationRecord(Settings):
    """All items against all indexes. `items`: SHA-256 of the items' file."""

    items: str
    indexes: list[IndexFacts]
    findings: list[ItemFinding]

    def classes(self) -> dict[str, ItemClass]:
        """Item id -> class."""
        return {found.id: found.kind for found in self.findings}

    def count(self, kind: ItemClass) -> int:
        """Items of one class."""
        return sum(found.kind == kind for found in self.findings)

    @property
    def coverage(self) -> float:
        """Share of the items of which the search could say something."""
        return 1 - self.count("unscannable") / max(1, len(self.findings))

    def words(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{self.count(kind):,} {kind}" for kind in CLASSES)
        return f"{len(self.findings):,} items: {counts}; coverage {self.coverage:.1%}"
