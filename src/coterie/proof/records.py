"""Probes: a model's answers to a few fixed texts, by which another copy can be shown to be the same model.

A record holds log-probabilities in float32 whatever type the model runs in, and the experts of each token.

T compared positions (of all sequences, without each sequence's last token), K kept tokens, V vocabulary,
D width.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.config import CheckpointError
from coterie.config.files import present
from coterie.config.json_text import parse_json_object
from coterie.families import float32_parameters
from coterie.nn.packed import PASS_TOKENS, forward_packed, groups_of
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer

# In a subfolder, because some servers read every *.safetensors file next to config.json as weights.
FILE = "probes/probes.safetensors"
NUM_PROBES = 16
LONGEST = 384  # tokens of one probe: beyond the small windows of published models
_KEPT = 20
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class ProbeRecord:
    """One model's answers at every position of `sequences` except the last of each.

    Position i predicts token i + 1. `next_T`: float32 log-probability of the token that follows.
    `top_ids_TK`, `top_TK`: the most likely tokens, best first, and their log-probabilities (K is 0 where an
    endpoint gives none, and a row is -1 where it names them ambiguously). `routing`: layer -> (T, k) ids of
    the chosen experts, each row ascending. `tokenizer`: hash, "" when unknown. `dtype`: the type the weights
    were stored in ("float32", ...; "" when unknown).
    """

    sequences: tuple[tuple[int, ...], ...]
    next_T: Tensor
    top_ids_TK: Tensor
    top_TK: Tensor
    routing: dict[int, Tensor] = field(default_factory=dict)
    tokenizer: str = ""
    dtype: str = ""

    @property
    def num_positions(self) -> int:
        return sum(len(sequence) - 1 for sequence in self.sequences)

    def place(self, position: int) -> tuple[int, int]:
        """(sequence, index of the predicted token in it) of one of the T positions."""
        for number, sequence in enumerate(self.sequences):
            if position < len(sequence) - 1:
                return number, position + 1
            position -= len(sequence) - 1
        raise IndexError(position)


def default_sequences(tokenizer: Tokenizer | None, vocab_size: int, max_positions: int) -> list[list[int]]:
    """16 probes of 2 to 384 token ids, always the same: texts, or random ids without a tokenizer.

    The last one is all texts in a row. Errors: `CheckpointError` for a model that takes fewer than two
    tokens.
    """
    limit = min(max_positions, LONGEST)
    if limit < 2:
        raise CheckpointError(f"probes need two positions at least, this model has {max_positions}")
    if tokenizer is None:
        draw = random.Random(0)
        lengths = [draw.randint(24, 64) for _ in range(NUM_PROBES - 1)] + [LONGEST]
        return [[draw.randrange(vocab_size) for _ in range(min(length, limit))] for length in lengths]
    parts = [[token for token in ids if token < vocab_size] for ids in tokenizer.encode_batch(TEXTS)]
    whole = [token for ids in parts for token in (tokenizer.eos_id, *ids)]
    sequences = [[tokenizer.eos_id, *ids][:limit] for ids in parts] + [whole[:limit]]
    return sequences


@torch.no_grad()
def record(
    model: Transformer, sequences: Sequence[Sequence[int]], tokenizer: Tokenizer | None = None
) -> ProbeRecord:
    """Run the model on the sequences in float32, whatever type its parameters are stored in.

    `tokenizer`: the one that made the sequences; its hash is kept.
    Errors: `CheckpointError` for a sequence that has fewer than two tokens, is too long or has an id outside
    the vocabulary, and for log-probabilities that are not finite.
    """
    config = model.config
    for number, sequence in enumerate(sequences):
        if not 2 <= len(sequence) <= config.max_positions or not all(
            0 <= t < config.vocab_size for t in sequence
        ):
            raise CheckpointError(
                f"probe {number}: needs 2 to {config.max_positions} token ids below {config.vocab_size}; "
                "use other data"
            )
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    routing: dict[int, list[Tensor]] = {}
    with _in_float32(model):
        for group in groups_of(sequences, PASS_TOKENS):
            recorder = Recorder()
            h_TD = forward_packed(model, group, recorder)
            lengths = [len(sequence) for sequence in group]
            keep_T = torch.cat([torch.arange(n) < n - 1 for n in lengths]).to(h_TD.device)
            following = torch.tensor(
                [token for sequence in group for token in sequence[1:]], device=h_TD.device
            )
            parts += _likely(model, h_TD[keep_T], following)
            for layer, chosen in recorder.routing.items():
                kept_TK = chosen.ids_TK[keep_T].sort(-1).values.to("cpu", torch.int32)
                routing.setdefault(layer, []).append(kept_TK)
    if not parts:
        raise CheckpointError("probes: there are none; give some text")
    next_T, top_TK, top_ids_TK = (torch.cat(column) for column in zip(*parts, strict=True))
    if not bool(next_T.isfinite().all()):
        raise CheckpointError("probes: the model's log-probabilities are not finite; its weights are damaged")
    return ProbeRecord(
        tuple(tuple(int(token) for token in sequence) for sequence in sequences),
        next_T,
        top_ids_TK,
        top_TK,
        {layer: torch.cat(ids) for layer, ids in routing.items()},
        tokenizer.sha256 if tokenizer is not None else "",
        str(model.embed.weight.dtype).removeprefix("torch."),
    )


def probe(model: Transformer, tokenizer: Tokenizer) -> ProbeRecord:
    """Record the answers to the default probes without dropout. The model keeps its mode.

    Errors: as `record`.
    """
    training = model.training
    model.eval()
    try:
        sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
        return record(model, sequences, tokenizer)
    finally:
        model.train(training)


def save_probes(directory: Path, record: ProbeRecord) -> None:
    """Write `probes/probes.safetensors` into a directory that is being written."""
    path = Path(directory) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "ids": torch.tensor(
            [token for sequence in record.sequences for token in sequence], dtype=torch.int32
        ),
        "lengths": torch.tensor([len(sequence) for sequence in record.sequences], dtype=torch.int32),
        "next_logprobs": record.next_T.contiguous(),
        "top_ids": record.top_ids_TK.contiguous(),
        "top_logprobs": record.top_TK.contiguous(),
    } | {f"routing.{layer}": ids_TK.contiguous() for layer, ids_TK in record.routing.items()}
    about = {"format": 1, "tokenizer": record.tokenizer, "dtype": record.dtype}
    save_file(tensors, path, metadata={"probes": json.dumps(about)})


def load_probes(directory: Path) -> ProbeRecord | None:
    """The record of a checkpoint directory, or None when it has none.

    Errors: `CheckpointError` for a damaged file.
    """
    path = Path(directory) / FILE
    if not present(path, CheckpointError):
        return None
    try:
        with safe_open(path, "pt") as file:
            about = parse_json_object((file.metadata() or {})["probes"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["format"] != 1:
            raise ValueError(f"format {about['format']} is not known")
        return _from_tensors(tensors, str(about["tokenizer"]), str(about["dtype"]))
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{path}: is not a usable record of probes ({reason}); save the model again"
        ) from None


def _from_tensors(tensors: Mapping[str, Tensor], tokenizer: str, dtype: str) -> ProbeRecord:
    lengths = tensors["lengths"].tolist()
    if not lengths or min(lengths) < 2 or sum(lengths) != tensors["ids"].numel():
        raise ValueError("lengths and ids do not agree")
    sequences = tuple(tuple(part.tolist()) for part in tensors["ids"].split(lengths))
    routing = {int(name[8:]): ids_TK for name, ids_TK in tensors.items() if name.startswith("routing.")}
    result = ProbeRecord(
        sequences,
        tensors["next_logprobs"],
        tensors["top_ids"],
        tensors["top_logprobs"],
        dict(sorted(routing.items())),
        tokenizer,
        dtype,
    )
    rows = {part.shape[0] for part in (result.next_T, result.top_ids_TK, result.top_TK, *routing.values())}
    if rows != {result.num_positions} or result.top_ids_TK.shape != result.top_TK.shape:
        raise ValueError("its tensors have different numbers of positions")
    return result


@contextmanager
def _in_float32(model: Transformer) -> Iterator[None]:
    """Inside, activations are float32; parameters are cast at each product."""
    before = model.compute_dtype
    model.compute_dtype = torch.float32
    try:
        yield
    finally:
        model.compute_dtype = before


@contextmanager
def rounded(model: Transformer, dtype: torch.dtype) -> Iterator[None]:
    """Inside, parameters are as they will be read back after storing them as `dtype`; then as before."""
    originals = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        round_parameters(model, dtype)
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def round_parameters(model: Transformer, dtype: torch.dtype, also_wide: Collection[str] = ()) -> int:
    """Make parameters what storing them as `dtype` makes of them, for good; returns how many changed type.

    `also_wide`: names that stay as they are, besides those that the family stores as float32.
    """
    wide = float32_parameters(model.config) | set(also_wide)
    changing = [p for name, p in model.named_parameters() if p.dtype != dtype and name not in wide]
    for parameter in changing:
        parameter.data = parameter.data.to(dtype)
    return len(changing)


def _likely(model: Transformer, h_TD: Tensor, following_T: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(log-probability of the following token, the K best, their ids), a chunk of positions at a time."""
    rows = max(16, _CHUNK_BYTES // (4 * model.config.vocab_size))
    for h_CD, following_C in zip(h_TD.split(rows), following_T.split(rows), strict=True):
        logprobs_CV = model.logits(h_CD).log_softmax(-1)
        best = logprobs_CV.topk(min(_KEPT, logprobs_CV.shape[1]), dim=-1)
        next_C = logprobs_CV.gather(1, following_C[:, None])[:, 0]
        yield next_C.cpu(), best.values.cpu(), best.indices.to("cpu", torch.int32)
