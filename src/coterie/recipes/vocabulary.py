"""A model with further tokens: its tokenizer, its embedding and its head grow, and nothing else changes.

The row of a new token begins as the mean of the rows of the tokens that its text was until now. The model
reads it much as it read the pieces, and training goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, commit_directory, require_free
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import CheckpointError, ConfigError
from coterie.config.files import write_json
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.proof.records import default_sequences, record, save_probes
from coterie.text.extended import extended
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")
RECEIPT = "vocabulary.json"
_TABLES = ("embed.weight", "head.weight")


@dataclass
class NewToken:
    """One added token: its id, and the ids of the tokens whose mean row it begins with."""

    token: str
    id: int
    pieces: list[int]


@dataclass
class VocabularyReceipt:
    """What `extend_vocabulary` did. `rows`: of the embedding, before and after.

    `largest_share`: the largest probability that the new tokens have together at a position of the built-in
    texts; that much the old tokens lost.
    """

    source: str
    special: bool
    tokens: list[NewToken] = field(default_factory=list)
    rows: tuple[int, int] = (0, 0)
    tied: bool = False
    largest_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def extend_vocabulary(
    source: str | Path | Checkpoint, out: str | Path, tokens: Sequence[str], special: bool = False
) -> VocabularyReceipt:
    """Write the model with `tokens` to `out`; returns the receipt, which is also `vocabulary.json` there.

    Rows of the embedding beyond the tokenizer are used first; the embedding grows by what is missing. All
    other numbers are compared with the source's after writing.
    Errors: `DataError` for tokens that cannot be added, `ConfigError` for a model without a tokenizer,
    `CheckpointError` when the written result does not read back equal. Nothing is written then.
    """
    checkpoint, out = Checkpoint.open(source), Path(out)
    if out.resolve() == checkpoint.path.resolve():
        raise ConfigError("add-tokens: -o is the model itself; write the result to another directory")
    require_free(out, "-o", replaces=(MANIFEST, "a checkpoint of coterie"))
    if checkpoint.tokenizer is None:
        raise ConfigError(f"{checkpoint.path}: has no tokenizer, so no token can be added to it")
    tokenizer = extended(checkpoint.tokenizer, tokens, special)
    checkpoint.verify()
    model = checkpoint.load(checkpoint.kept_dtype, compute_dtype=torch.float32).model
    first, rows = checkpoint.tokenizer.vocab_size, model.config.vocab_size
    if model.config.per_layer_width is not None:
        raise ConfigError(
            f"{checkpoint.path}: each token has an input for every layer (hidden_size_per_layer_input), and "
            "new tokens have none; add no tokens to this model"
        )
    receipt = VocabularyReceipt(checkpoint.name, special, tied=model.config.tie_embeddings)
    receipt.tokens = [
        NewToken(token, first + number, checkpoint.tokenizer.encode(token))
        for number, token in enumerate(tokens)
    ]
    receipt.rows = rows, max(rows, tokenizer.vocab_size)

    def write(folder: Path) -> None:
        _write(folder, checkpoint, model, tokenizer, receipt)

    commit_directory(out, write, {"parent": checkpoint.name, "vocabulary": receipt.to_dict()})
    return receipt


def _write(
    folder: Path, source: Checkpoint, model: Transformer, tokenizer: Tokenizer, receipt: VocabularyReceipt
) -> None:
    config = model.config.model_copy(update={"vocab_size": receipt.rows[1]})
    with torch.device("meta"):
        shape = Transformer(config)
    shape.carried = dict(model.carried)
    _log.info("writing an embedding of %s rows", f"{receipt.rows[1]:,}")
    write_model_files(
        folder,
        shape,
        tokenizer,
        dtype=source.kept_dtype,
        generation=source.generation,
        tensors=_grown(model, receipt),
    )
    result = Checkpoint.open(folder).load(source.kept_dtype, compute_dtype=torch.float32).model
    _check(folder, model, result, receipt)
    receipt.largest_share = _largest_share(result, source.tokenizer, receipt)
    sequences = default_sequences(tokenizer, config.vocab_size, config.max_positions)
    save_probes(folder, record(result, sequences, tokenizer))
    write_json(folder / RECEIPT, receipt.to_dict())


def _grown(model: Transformer, receipt: VocabularyReceipt) -> Callable[[str], Tensor]:
    """The result's parameters and buffers by name."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())

    @torch.no_grad()
    def tensor(name: str) -> Tensor:
        if name not in _TABLES:
            return own[name]
        old_VD = own[name]
        new_VD = old_VD.new_empty(receipt.rows[1], old_VD.shape[1])
        new_VD[: len(old_VD)] = old_VD
        for token in receipt.tokens:
            new_VD[token.id] = old_VD[token.pieces].float().mean(0).to(old_VD.dtype)
        return new_VD

    return tensor


def _check(folder: Path, model: Transformer, result: Transformer, receipt: VocabularyReceipt) -> None:
    """Compare everything but the new rows with the source, bit by bit."""
    new = [token.id for token in receipt.tokens]
    read = dict(result.named_parameters()) | dict(result.named_buffers())
    for name, before in [*model.named_parameters(), *model.named_buffers()]:
        after = read[name]
        if name in _TABLES:
            kept = torch.ones(len(before), dtype=torch.bool)
            kept[[number for number in new if number < len(before)]] = False
            before, after = before[kept], after[: len(before)][kept]
        if not torch.equal(before, after):
            raise CheckpointError(f"{folder}: '{name}' was not written as it was; nothing was kept")


@torch.inference_mode()
def _largest_share(model: Transformer, tokenizer: Tokenizer | None, receipt: VocabularyReceipt) -> float:
    new, largest = [token.id for token in receipt.tokens], 0.0
    for ids in default_sequences(tokenizer, receipt.rows[0], model.config.max_positions):
        h_TD = model(torch.tensor(ids), ForwardContext.packed([len(ids)]))
        share_T = model.logits(h_TD).softmax(-1)[:, new].sum(-1)
        largest = max(largest, float(share_T.max()))
    return largest
