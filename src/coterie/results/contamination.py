"""What a search of the training data for evaluation items found, and what it makes of a score."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config import Settings
from coterie.results.intervals import Estimate

ItemClass = Literal["clean", "contaminated", "unscannable"]
HitLabel = Literal["question_only", "question+answer", "passage_only"]
CLASSES: tuple[ItemClass, ...] = ("clean", "contaminated", "unscannable")
WARN_ABOVE, CLEAN_ABOVE = 0.01, 0.05  # of the items: a warning; the clean score becomes the headline


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


class SplitPart(Settings):
    """The items of one class and their score; None where there are too few for one."""

    items: int = Field(ge=0)
    score: Estimate | None = None


class ContaminationSplit(Settings):
    """One score, split by what the training data holds of its items. `delta`: clean minus all, paired."""

    clean: SplitPart
    contaminated: SplitPart
    unscannable: SplitPart
    delta: Estimate | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.items:
            raise ValueError("a split of no items says nothing")
        return self

    @property
    def items(self) -> int:
        """All items."""
        return self.clean.items + self.contaminated.items + self.unscannable.items

    @property
    def contaminated_share(self) -> float:
        """Contaminated items over all items."""
        return self.contaminated.items / self.items

    @property
    def headline(self) -> Literal["all", "clean"]:
        """Which score may stand first: the clean one if much is contaminated or it differs for certain."""
        differs = self.delta is not None and not self.delta.low <= 0 <= self.delta.high
        return "clean" if differs or self.contaminated_share > CLEAN_ABOVE else "all"

    @property
    def flag(self) -> str | None:
        """What a page must say above this score, in words."""
        if self.headline == "clean":
            return (
                f"{self.contaminated_share:.1%} of the items are in the training data; read the clean score"
            )
        if self.contaminated_share > WARN_ABOVE:
            return f"{self.contaminated_share:.1%} of the items are in the training data"
        return None
