"""What a changed model is measured by: the same texts and probes before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.config import ModelConfig
from coterie.data.heldout import HeldoutDocument, read_domains, spread
from coterie.evaluate.bits import perplexity, score_documents
from coterie.machine.glibc import return_freed_memory
from coterie.nn.transformer import Transformer
from coterie.proof.difference import difference
from coterie.proof.records import ProbeRecord, default_sequences, record
from coterie.surgery.common import Sequences
from coterie.surgery.receipt import FunctionChange
from coterie.text.tokenizer import Tokenizer

CALIBRATION_TOKENS = 20_000
EVALUATION_TOKENS = 5_000  # the same texts before and after, so that a change shows with few of them


@dataclass(frozen=True)
class Measure:
    """What a model is measured by: perplexity of `documents`, answers to the probes `sequences`.

    `analysed`: other texts, for an operation to look at.
    """

    analysed: Sequences
    documents: list[HeldoutDocument]
    sequences: list[list[int]]
    tokenizer: Tokenizer | None

    @staticmethod
    def of(data: Sequence[str], config: ModelConfig, tokenizer: Tokenizer | None) -> Measure:
        """Of the texts `data`. Errors: `DataError` for one that cannot be read."""
        analysed, documents = _texts(data, tokenizer)
        sequences = default_sequences(tokenizer, config.vocab_size, config.max_positions)
        return Measure(analysed, documents, sequences, tokenizer)

    def record(self, model: Transformer) -> ProbeRecord:
        """The model's answers to the probes."""
        answers = record(model, self.sequences, self.tokenizer)
        return_freed_memory()
        return answers

    def perplexity(self, model: Transformer) -> float | None:
        """Of the texts; None where there are none."""
        if not self.documents or self.tokenizer is None:
            return None
        length = min(512, model.config.max_positions)
        scores = score_documents(model, self.documents, self.tokenizer.document_start[0], length)
        return perplexity(scores)

    def change(self, before: ProbeRecord, after: ProbeRecord) -> FunctionChange:
        """How far the second answers are from the first."""
        found = difference(before, after)
        return FunctionChange(found.max_logprob, found.mean_logprob, found.kl, found.top1)


def _texts(data: Sequence[str], tokenizer: Tokenizer | None) -> tuple[Sequences, list[HeldoutDocument]]:
    """Token ids to analyse, and other documents to measure on; a single document serves both."""
    if tokenizer is None:
        return [], []
    documents = read_domains(data, tokenizer, CALIBRATION_TOKENS + EVALUATION_TOKENS)
    analysed, measured = (documents[::2], documents[1::2]) if len(documents) > 1 else (documents, documents)
    calibration = [document.ids.tolist() for document in spread(analysed, CALIBRATION_TOKENS)]
    return calibration, spread(measured, EVALUATION_TOKENS)
