"""The evaluation report: scores bound to the weights, the prompts and the items that made them.

`EvalReport` is what is signed, published and checked. Every reply behind a score is an `ItemRecord`, one line
of a JSONL file next to the report; the report holds the Merkle root over those lines. A sha256 is written
`sha256:` and 64 hexadecimal digits. Numbers are text in the signed form (`evidence.canonical`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coterie.config import Settings
from coterie.results.intervals import Estimate
from coterie.results.safety import SafetyFacts

ReportSchema = Literal["coterie.eval_report/v1"]
REPORT_SCHEMA: ReportSchema = "coterie.eval_report/v1"
Assurance = Literal["self_attested", "third_party", "reproduced"]
Ruling = Literal["PASS", "WARN", "REFUSE"]
WARN_ABOVE, CLEAN_ABOVE = 0.01, 0.05  # of the items are contaminated: a warning; the clean score counts
# Choices are weighed by their log-probabilities; replies are read; whole texts cost bits per byte.
ScoringMode = Literal["choice", "reply", "text"]


class ModelIdentity(Settings):
    """Which model was scored.

    `weights_tensors`: root of the Merkle tree over the tensors that were in memory; it is the same however
    they are spread over files. `weights_files`: digest over the directory's files, or None where a server
    answered. `config`: digest of config.json without what it says about the files. `lineage`:
    `weights_tensors` of the models it was made from, the nearest first.
    """

    name: str
    weights_tensors: str | None
    weights_files: str | None = None
    config: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    generation_config: str | None = None
    lineage: list[str] = Field(default_factory=list)


class ExecProfile(Settings):
    """What ran the model. Scores of two profiles are two scores.

    `kernels`: what decoding ran on. `quantisation`: what the weights of each class were held in. `libraries`:
    digest over the names and versions of the installed packages. `exact`: each item was computed by itself,
    so that its result does not depend on the others. `batch_invariant`: the measured answer of
    `coterie eval invariance`; None where it was not measured.
    """

    engine: str
    version: str
    dtype: str
    quantisation: dict[str, str] = Field(default_factory=dict)
    kernels: str = ""
    device: str = ""
    processor: str = ""
    threads: int = 0
    dropless: bool | None = None
    exact: bool | None = None
    batch_invariant: bool | None = None
    torch: str = ""
    libraries: str = ""
    commit: str | None = None
    dirty: bool | None = None


class ItemRecord(Settings):
    """One reply to one item of a task, and what it earned; one line of `samples.jsonl`.

    `digest`: of the item. `prompt`: digest of what the model was given, token ids or messages. `lenient`: the
    score where the answer is looked for anywhere in the reply. `unparsed`: no answer was found where the
    prompt asks for it. `truncated`: the reply ended at its limit. `failed`: the checker did not work, so that
    the reply has no score. `logprobs`: of each choice, where choices are weighed. `confidence`: in the
    answer, from 0 to 1, where the task asks for one. `why`: of the verdict or of the failure, in words.
    """

    task: str
    id: str
    digest: str
    cluster: str
    prompt: str
    seed: int | None = None
    reply: str = ""
    extracted: str | None = None
    score: float
    right: bool
    lenient: float | None = None
    unparsed: bool = False
    truncated: bool = False
    failed: bool = False
    logprobs: list[float] = Field(default_factory=list)
    tokens: int = 0
    confidence: float | None = None
    why: str = ""


class TaskScore(Estimate):
    """The score of one task with its 95 % interval.

    `method`: how the interval was made. `clusters`: of items that depend on one another. `mde80`: the
    smallest difference to another model on the same items that would be found with probability 0.8.
    `lower_is_better`: the score is a cost.
    """

    metric: str
    method: str
    clusters: int
    mde80: float | None = None
    lower_is_better: bool = False


class ClassScore(Settings):
    """The score over the items of one class of contamination; None without an item."""

    items: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class ScoreSplits(Settings):
    """A task's score by what the training data holds of its items; unscannable is never clean.

    `clean_minus_all`: with its interval, over clusters. `coverage`: share of the items that could be looked
    up.
    """

    clean: ClassScore
    contaminated: ClassScore
    unscannable: ClassScore
    clean_minus_all: Estimate | None = None
    coverage: float

    @property
    def contaminated_share(self) -> float:
        """Contaminated items over all items."""
        parts = (self.clean, self.contaminated, self.unscannable)
        return self.contaminated.items / max(1, sum(part.items for part in parts))

    @property
    def differs(self) -> bool:
        """Whether the clean score is another than that of all items, for certain."""
        change = self.clean_minus_all
        return change is not None and not change.low <= 0 <= change.high

    @property
    def clean_counts(self) -> bool:
        """Whether the clean score is the one to read (D1)."""
        return self.differs or self.contaminated_share > CLEAN_ABOVE

    @property
    def is_flagged(self) -> bool:
        """Whether contamination must be said above the score (D1)."""
        return self.differs or self.contaminated_share > WARN_ABOVE


class PromptBand(Settings):
    """Scores of the same items under `count` wordings that mean the same.

    `percentile`: of the headline score within them, from 0 to 1. `items`: how many items were tried.
    """

    count: int
    items: int
    low: float
    median: float
    high: float
    percentile: float


class DetectorFinding(Settings):
    """What one detector of contamination or of an artefact found.

    `p`: before correction; `p_holm`: over the report's detectors. `power`: the measured probability that it
    would have found what `power_at` says, or None where that was not measured.
    """

    id: str
    statistic: float | None = None
    p: float | None = None
    p_holm: float | None = None
    power: float | None = None
    power_at: str = ""
    flag: bool
    says: str


class InvarianceFacts(Settings):
    """How far an item's score depends on what else is in the batch, over several compositions."""

    compositions: int
    items: int
    max_abs_dlogprob: float
    flip_rate: float
    dropped_tokens: int
    span: float


class PromptFacts(Settings):
    """What the model was given besides the item's text.

    `form`: by its chat template, as questions and answers in plain text, as the item's words alone (`text`),
    or by a server. `template`: digest of what the form writes.
    """

    form: Literal["chat", "plain", "text", "server"]
    template: str
    fewshot: list[str] = Field(default_factory=list)
    system: str | None = None
    extractor: str
    effort: str | None = None
    max_tokens: int = 0
    temperature: float = 0.0


class ExtractionFacts(Settings):
    """How replies were read. `gap`: the lenient score minus the strict one."""

    unparsed: int
    truncated: int
    failed: int
    gap: float | None = None


class SamplesFile(Settings):
    """The file of item records that a score was made from. `merkle_root`: over its lines in order."""

    path: str
    rows: int
    merkle_root: str


class TaskResult(Settings):
    """Everything said about one task. `items`: digest over the digests of its items in order.

    `extras`: further numbers that the benchmark gives, such as a calibration error.
    """

    id: str
    version: str
    mode: ScoringMode
    items: str
    n: int
    cluster_key: str
    prompt: PromptFacts
    score: TaskScore
    groups: dict[str, Estimate] = Field(default_factory=dict)
    extras: dict[str, float] = Field(default_factory=dict)
    between_seeds: Estimate | None = None
    splits: ScoreSplits | None = None
    band: PromptBand | None = None
    detectors: list[DetectorFinding] = Field(default_factory=list)
    invariance: InvarianceFacts | None = None
    extraction: ExtractionFacts
    samples: SamplesFile


class TrainingStage(Settings):
    """One stage of training that the weights went through, and the index of what it read."""

    name: str
    data: str | None = None
    tokens: int | None = None
    index: str | None = None
    index_coverage: float | None = None


class TrainingFacts(Settings):
    """What is known of the training data. `manifest`: digest of the directory's `coterie.json`."""

    manifest: str | None = None
    stages: list[TrainingStage] = Field(default_factory=list)


class PlanFacts(Settings):
    """The plan that was locked before the items were scored, and its place in the ledger."""

    digest: str
    locked_at: str
    ledger_pos: int | None = None


class LookFacts(Settings):
    """How often the test sets were looked at, from the ledger.

    `corrected`: per task, the interval of the released model's score as the best of all that were looked at.
    """

    head: str
    checkpoints: int
    looks: dict[str, int]
    rank: dict[str, int] = Field(default_factory=dict)
    corrected: dict[str, Estimate] = Field(default_factory=dict)


class Waiver(Settings):
    """A flag that a person has read and let pass; it is printed in the card. `by`: digest of their key."""

    flag: str
    reason: str
    by: str


class EvalReport(Settings):
    """One signed report.

    `settings`: of the evaluation (`EvalConfig`), without what belongs to the machine, so that it can be run
    again. `average`: of the scores of all tasks but those of texts and of safety, where there are several.
    `flags`: what is wrong with the scores, as `TASK:DETECTOR`.
    """

    schema_name: ReportSchema = REPORT_SCHEMA
    assurance: Assurance = "self_attested"
    created: str
    subject: ModelIdentity
    training: TrainingFacts = TrainingFacts()
    plan: PlanFacts | None = None
    exec_profile: ExecProfile
    seeds: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    tasks: list[TaskResult]
    average: Estimate | None = None
    safety: SafetyFacts | None = None
    looks: LookFacts | None = None
    flags: list[str] = Field(default_factory=list)
    verdict: Ruling
    waivers: list[Waiver] = Field(default_factory=list)

    def task(self, name: str) -> TaskResult | None:
        """The report of one task."""
        return next((task for task in self.tasks if task.id == name), None)
