"""Are two models the same to their users? Compares answers to probes, tensors and tokenizers.

A side is a checkpoint directory, an adapter or patch on its base, a GGUF file, or an OpenAI-compatible
endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.apply import apply_in_place, base_of, is_variant
from coterie.adapters.patch import is_patch
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError, CoterieError, ModelConfig
from coterie.data.documents import document_ids
from coterie.data.sources import Reading, read_sources
from coterie.evidence.canonical import digest_of
from coterie.families.registry import first_difference
from coterie.gguf.readback import put_back
from coterie.gguf.rounding import file_rounding
from coterie.proof.difference import ROUNDED, SAME, Difference, difference
from coterie.proof.judge import FAITHFUL, judge
from coterie.proof.records import LONGEST, ProbeRecord, default_sequences, record
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from coterie.verify.server import ScoredServer
from coterie.verify.tensors import TensorWalk, compare_tensors

_log = logging.getLogger("coterie")
_DATA_PROBES = 64


@dataclass(frozen=True)
class Side:
    """A model to compare.

    `checkpoint`: the model's own, or the base of an adapter or patch in the directory `variant`. `gguf` and
    `endpoint`: a file or a server instead of a checkpoint.
    """

    name: str
    checkpoint: Checkpoint | None = None
    variant: Path | None = None
    gguf: Path | None = None
    endpoint: ScoredServer | None = None

    @property
    def is_checkpoint(self) -> bool:
        """Whether its tensors are stored in a directory as they are used."""
        return self.checkpoint is not None and self.variant is None

    @property
    def config(self) -> ModelConfig | None:
        """The model's config; None for a GGUF file and an endpoint."""
        return self.checkpoint.config if self.checkpoint is not None else None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, if there is one."""
        return self.checkpoint.tokenizer if self.checkpoint is not None else None

    @property
    def dtype(self) -> torch.dtype | None:
        """The one type that all its weights are stored in; None where there is more than one, or none known.

        Factors of an adapter are float32 whatever the base is stored in, so only a float32 base gives one
        type. A patch is stored in the type of its base.
        """
        if self.checkpoint is None:
            return None
        stored = self.checkpoint.stored_dtype
        mixed = self.variant is not None and not is_patch(self.variant) and stored != torch.float32
        return None if mixed else stored


@dataclass(frozen=True)
class Verdict:
    """The result of comparing A with B.

    `same`: whether A and B are one model to their users; otherwise `reasons`, the most important first.
    `notes`: what could not be compared or does not decide. `unreached`: layer -> number of experts that no
    probe was routed to. `gravity`: of A between the tuned B and its base (see `proof.judge.judge`), where a
    base was given. `probes`: digest of the token ids that both were given.
    """

    a: str
    b: str
    same: bool
    reasons: list[str]
    notes: list[str]
    tolerance: float
    difference: Difference
    tensors: TensorWalk | None
    gravity: float | None = None
    unreached: dict[int, int] = field(default_factory=dict)
    probes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {
            "difference": self.difference.to_dict(),
            "unreached": {str(layer): count for layer, count in self.unreached.items()},
        }


def open_side(name: str, model_name: str | None = None, key: str | None = None) -> Side:
    """A side from a directory (a model's, adapter's or patch's), a hub id, a GGUF file or a server's address.

    `model_name`, `key`: the model to ask the server for, and its bearer token. Errors: `CoterieError`, one
    line.
    """
    if name.startswith(("http://", "https://")):
        return Side(name, endpoint=ScoredServer(name, model_name, key))
    if name.endswith(".gguf"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise CheckpointError(f"{name}: no such file")
        return Side(name, gguf=file)
    if is_variant(name):
        return Side(name, Checkpoint.open(base_of(name)), Path(name).expanduser())
    return Side(name, Checkpoint.open(name))


def compare(
    a: Side,
    b: Side,
    base: Side | None = None,
    data: str | None = None,
    tolerance: float | None = None,
) -> Verdict:
    """Compare A with B, one model in memory at a time.

    `data`: a source of texts instead of the built-in probes. `tolerance`: of the mean difference of
    log-probabilities in nats (20 times that, or 0.05, for a single one). If it is given, it alone decides,
    and differing tensors are only reported. Default: 0.0001, or 0.05 where the sides are stored in different
    types or one is an endpoint; a GGUF file and its checkpoint are compared number by number instead. `base`:
    the model that B was tuned from; A must have B's change and not be the base.
    Errors: `CoterieError` for sides that cannot be compared.
    """
    sides = [a, b] + ([base] if base is not None else [])
    tokenizer = next((side.tokenizer for side in sides if side.tokenizer is not None), None)
    sequences = choose_sequences(sides, tokenizer, data)
    written_from = next((side.checkpoint for side in sides if side.is_checkpoint), None)
    records = [side_record(side, sequences, tokenizer, written_from) for side in sides]
    found = difference(records[0], records[1])
    loose = a.dtype != b.dtype or None in (a.dtype, b.dtype)
    limit = tolerance if tolerance is not None else (ROUNDED if loose else SAME)
    reasons = _outputs(found, limit)
    notes: list[str] = []
    if tolerance is None:
        reasons = _rounded_file(a, b, reasons, notes)
    gravity = None
    if base is not None:
        judged = judge(records[2], records[1], records[0], limit)
        gravity = judged.gravity
        if judged.ruling in ("base", "between"):
            closer = "is the base" if judged.ruling == "base" else "lies between base and tuned model"
            reasons.insert(0, f"A {closer}: base gravity {gravity:.2f}, at least {FAITHFUL} was expected")
    tensors = _tensors(a, b, notes)
    if tensors is not None and tensors.first is not None:
        others = f" ({tensors.differing - 1} more)" if tensors.differing > 1 else ""
        line = f"'{tensors.first}' {tensors.what}{others}"
        (reasons if tolerance is None else notes).append(line)
    reasons += _tokenizers(a, b, notes)
    _config_note(a, b, notes)
    unreached = _unreached(a.config, records[0]) or _unreached(b.config, records[1])
    probes = digest_of(sequences)
    return Verdict(
        a.name, b.name, not reasons, reasons, notes, limit, found, tensors, gravity, unreached, probes
    )


def choose_sequences(sides: Sequence[Side], tokenizer: Tokenizer | None, data: str | None) -> list[list[int]]:
    """Token ids that every side can read: of `data`, or the built-in probes.

    Errors: `CoterieError` where there are none, or no side has a config.
    """
    configs = [side.config for side in sides if side.config is not None]
    if not configs:
        raise CoterieError(
            "verify: one of the two must be a checkpoint directory; its tokenizer makes the probes"
        )
    vocab_size = min(config.vocab_size for config in configs)
    limit = min(config.max_positions for config in configs)
    if any(side.endpoint is not None for side in sides):
        limit -= 1  # a server generates one token after the prompt
    if data is None:
        return default_sequences(tokenizer, vocab_size, limit)
    if tokenizer is None:
        raise CoterieError("verify: --data needs a tokenizer, and neither directory holds a tokenizer.json")
    sequences: list[list[int]] = []
    for document in read_sources([data], Reading(max_bytes=1_000_000)):
        ids = document_ids([document], tokenizer, plain=True)[0][: min(limit, LONGEST)]
        if len(ids) > 1 and max(ids) < vocab_size:
            sequences.append(ids)
        if len(sequences) == _DATA_PROBES:
            break
    if not sequences:
        raise CoterieError(f"verify: {data} holds no text that both models can read; give other data")
    return sequences


def side_record(
    side: Side,
    sequences: list[list[int]],
    tokenizer: Tokenizer | None,
    written_from: Checkpoint | None,
) -> ProbeRecord:
    """Record what one side answers to the sequences; a checkpoint's model is freed afterwards.

    `written_from`: the checkpoint that a GGUF file was made of; its numbers are put back into that model.
    Errors: `CoterieError` for a GGUF file without `written_from`, and for models that cannot be read.
    """
    _log.info("%s: %d probes", side.name, len(sequences))
    if side.endpoint is not None:
        return side.endpoint.record(sequences, tokenizer)
    checkpoint = side.checkpoint if side.gguf is None else written_from
    if checkpoint is None:
        raise CoterieError(
            f"{side.name}: compare a GGUF file with the checkpoint directory it was written from"
        )
    device = "cuda" if torch.cuda.is_available() and side.is_checkpoint else "cpu"
    model = checkpoint.load(side.dtype or torch.float32, device).model
    if side.gguf is not None:
        put_back(model, checkpoint, side.gguf)
    if side.variant is not None:
        apply_in_place(model, side.variant, checkpoint)
    return record(model, sequences, tokenizer)


def _outputs(found: Difference, limit: float) -> list[str]:
    if found.within(limit):
        return []
    where = f"probe {found.worst[0]}, token {found.worst[1]}"
    return [
        f"log-probabilities differ by {found.mean_logprob:.3g} on average and {found.max_logprob:.3g} at "
        f"most ({where}); the tolerance is {limit:g}"
    ]


def _rounded_file(a: Side, b: Side, reasons: list[str], notes: list[str]) -> list[str]:
    """The reasons after a comparison of the numbers of a GGUF file and its checkpoint, which decides.

    A file that is the checkpoint rounded to its types, byte for byte, is the same model in that form, however
    far the rounding moves the answers. One with a tensor beyond that rounding is another model, however near
    its answers are.
    """
    file = a.gguf if a.gguf is not None else b.gguf
    other = b if a.gguf is not None else a
    if file is None or not other.is_checkpoint:
        return reasons
    assert other.checkpoint is not None
    _log.info("comparing the numbers of %s", file)
    found = file_rounding(other.checkpoint, file)
    if found.wrong:
        return [found.line, *reasons]
    notes.append(found.line)
    if not found.exact:
        return reasons
    notes += [f"{reason}; rounding alone does this" for reason in reasons]
    return []


def _tensors(a: Side, b: Side, notes: list[str]) -> TensorWalk | None:
    if a.variant is not None or b.variant is not None:
        notes.append("tensors not compared: the change of an adapter or patch is not a whole tensor")
    if not (a.is_checkpoint and b.is_checkpoint):
        return None
    assert a.checkpoint is not None and b.checkpoint is not None
    families = a.checkpoint.config.family, b.checkpoint.config.family
    if families[0] != families[1]:
        notes.append(f"tensors not compared: A is {families[0]} and B is {families[1]}")
        return None
    _log.info("comparing tensors")
    return compare_tensors(a.checkpoint, b.checkpoint)


def _tokenizers(a: Side, b: Side, notes: list[str]) -> list[str]:
    """Reasons why text becomes other tokens, or conversations other text, on the two sides."""
    one, other = a.tokenizer, b.tokenizer
    if a.endpoint is not None or b.endpoint is not None:
        endpoint, known = (a.endpoint, other) if a.endpoint is not None else (b.endpoint, one)
        return _served_tokenizer(endpoint, known, notes) if endpoint is not None and known is not None else []
    if a.gguf is not None or b.gguf is not None:
        notes.append(
            "tokenizer of the GGUF file not compared; what llama.cpp computes differently is not part of this"
        )
        return []
    if one is None or other is None:
        if one is not other:
            notes.append(f"tokenizers not compared: {'A' if one is None else 'B'} holds no tokenizer.json")
        return []
    reasons = []
    if one.sha256 != other.sha256:
        different = _first_text(one.encode_batch(TEXTS), other.encode_batch(TEXTS))
        if different is not None:
            reasons.append(f"the tokenizers differ: {different}")
        elif (one.eos_id, one.added_tokens) != (other.eos_id, other.added_tokens):
            reasons.append("the tokenizers have different special tokens")
        else:
            notes.append("tokenizer.json differs, but every probe text becomes the same tokens")
    if one.templates.named != other.templates.named:
        reasons.append("the chat templates differ: conversations become different text")
    return reasons


def _served_tokenizer(endpoint: ScoredServer, tokenizer: Tokenizer, notes: list[str]) -> list[str]:
    theirs = [endpoint.tokenize(text) for text in TEXTS[:1]]
    if theirs[0] is None:
        notes.append("the endpoint does not report how it tokenises text (/tokenize); it was given token ids")
        return []
    theirs += [endpoint.tokenize(text) for text in TEXTS[1:]]
    different = _first_text(tokenizer.encode_batch(TEXTS), [ids or [] for ids in theirs])
    return [] if different is None else [f"the endpoint tokenises differently: {different}"]


def _first_text(ours: list[list[int]], theirs: list[list[int]]) -> str | None:
    for number, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        if x != y:
            place = next(
                (i for i, pair in enumerate(zip(x, y, strict=False)) if pair[0] != pair[1]),
                min(len(x), len(y)),
            )
            return f"text {number} becomes {len(x)} and {len(y)} tokens, unlike from token {place} on"
    return None


def _config_note(a: Side, b: Side, notes: list[str]) -> None:
    if a.config is None or b.config is None:
        return
    path = first_difference(a.config.to_dict() | {"family": ""}, b.config.to_dict() | {"family": ""})
    if path:
        notes.append(f"the configs differ, first in '{path}'")


def _unreached(config: ModelConfig | None, found: ProbeRecord) -> dict[int, int]:
    """Layer -> number of experts that no compared token was routed to, where there are any."""
    if config is None:  # an endpoint or a GGUF file: the other side's config is used
        return {}
    result, moes = {}, dict(config.moe_layers())
    for layer, ids_TK in found.routing.items():
        missing = moes[layer].router.num_experts - int(ids_TK.unique().numel())
        if missing:
            result[layer] = missing
    return result
