"""What a quickstart measures its twins on: held-out documents, questions with one answer, prompts."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.config import DataError
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument
from coterie.primer import qa_probes
from coterie.recipes.heldout import evaluation_documents
from coterie.recipes.quickstart.plan import Plan
from coterie.results.quickstart import DataSummary

HELDOUT_TOKENS = 120_000
_LEAST_HELDOUT_TOKENS = 4096
_SCORING_SHARE = 0.1  # of the whole time, for a given model; scoring a token takes a third of training on it
_PROBES_PER_SLICE = 50
_PROMPT_CHARACTERS = 120
_MOST_PROMPTS = 8


@dataclass(frozen=True)
class Questions:
    """`probes`: (question, answer) by test, of the embedded corpus only. `prompts`: (slice, beginning)."""

    documents: list[HeldoutDocument]
    probes: dict[str, list[tuple[str, str]]]
    prompts: list[tuple[str, str]]


def check_enough(prepared: Prepared, config: TrainConfig) -> None:
    """Refuse too little text. Errors: `DataError` when it does not fill one training step."""
    needed = config.batch_rows * config.data.row_length
    if prepared.train.num_tokens < needed:
        raise DataError(
            f"the text has {prepared.train.num_tokens:,} training tokens; one step takes {needed:,}: "
            "give more text"
        )


def questions(prepared: Prepared, plan: Plan) -> Questions:
    """Collect everything that both twins are asked after their training."""
    documents = evaluation_documents(prepared, _heldout_tokens(plan), "final")
    probes: dict[str, list[tuple[str, str]]] = {}
    if plan.data is None and plan.start is None:
        names = ("arithmetic", "functions", "stories")
        probes = {name: list(qa_probes(name, plan.seed, _PROBES_PER_SLICE)) for name in names}
    prompts = [(name, pairs[0][0]) for name, pairs in probes.items()]
    seen = {name for name, _ in prompts}
    for document in documents:
        if document.slice not in seen and len(prompts) < _MOST_PROMPTS:
            seen.add(document.slice)
            text = prepared.tokenizer.decode(document.ids[1:].tolist())
            prompts.append((document.slice, text[:_PROMPT_CHARACTERS]))
    return Questions(documents, probes, prompts)


def _heldout_tokens(plan: Plan) -> int:
    if plan.start is None or plan.sweeps is None:
        return HELDOUT_TOKENS
    per_token = sum(part.seconds_per_token for part in plan.sweeps.values()) / 3
    affordable = int(_SCORING_SHARE * 60 * plan.minutes / per_token)
    return min(HELDOUT_TOKENS, max(_LEAST_HELDOUT_TOKENS, affordable))


def data_summary(prepared: Prepared, plan: Plan, documents: list[HeldoutDocument]) -> DataSummary:
    """The training data, and the size of the held-out part."""
    total = prepared.card.total("train")
    return DataSummary(
        name=plan.data or "primer",
        documents=total.documents,
        bytes=total.num_bytes,
        tokens=total.tokens,
        vocab_size=prepared.card.vocab_size,
        held_out_documents=len(documents),
        held_out_bytes=sum(document.num_bytes for document in documents),
        dropped=prepared.card.dropped,
    )
