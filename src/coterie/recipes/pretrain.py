"""Pretraining: a `TrainConfig` wired into data, model, loop and checkpoints; run again, it goes on where it stopped."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.config import ConfigError, ModelConfig
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.data.order import Order, read_batches
from coterie.evaluate.bits import HeldoutDocument, bits_per_byte, score_documents
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.plan.counts import flops_per_token
from coterie.text.tokenizer import Tokenizer
from coterie.train.allocator import keep_freed_memory
from coterie.train.callbacks import Callback, Evaluate, Interrupts, JsonlLog, Progress, read_records
from coterie.train.loop import Trainer
from coterie.train.objectives import cross_entropy
from coterie.train.optim import build_optimiser
from coterie.train.precision import choose_device, choose_dtype
from coterie.train.saving import SaveCheckpoint, resume
from coterie.train.schedule import multiplier
from coterie.train.track import Track
from coterie.weights.checkpoint import load_model, load_state_into, save_model, write_model_files
from coterie.weights.commit import RunLock

EVAL_TOKENS = 32768
# Settings that may differ when a run is taken up again: they do not change what is computed.
_FREE_TO_CHANGE = {"save_every", "eval_every", "keep", "log_every", "threads", "track"}


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is (None when the run was stopped early), and how the run ended."""

    model: Path | None
    steps: int
    tokens: int
    seconds: float
    reason: str
    bits_per_byte: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return self.__dict__ | {"model": str(self.model) if self.model else None}


def pretrain(config: TrainConfig, resume_hint: str = "the same command") -> TrainResult:
    """Run (or take up) the training that `config` describes.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints/step-NNNNNN` and, when finished, `model`, a
    Hugging Face directory. Errors: `CoterieError` subclasses, one line each.
    """
    out = Path(config.out)
    with RunLock(out):
        _check_same_run(config, out / "config.yaml")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        prepared = prepare(config.data, config.data_dir or out / "data", lambda line: print(line, file=sys.stderr))
        trainer = build_trainer(config, prepared)
        trainer.callbacks = _callbacks(config, prepared, trainer, resume_hint)
        path = resume(trainer, out / "checkpoints", lambda directory: load_state_into(_model(trainer), directory))
        if path is not None:
            print(f"going on from {path}", file=sys.stderr)
        config.to_yaml(out / "config.yaml")
        reason = trainer.run()
        return _finish(config, prepared, trainer, reason)


def build_trainer(config: TrainConfig, prepared: Prepared) -> Trainer:
    """Model, data order, optimiser and schedule of a run, without callbacks."""
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model = build_model(config.model, prepared.tokenizer, dtype, config.seed, config.balance)
    check_fit(model.config, prepared.tokenizer, prepared.row_length)
    model.to(device)
    rows = prepared.train_rows()
    order = Order(len(rows), config.seed)
    steps = config.num_steps(prepared.row_length)
    return Trainer(
        model,
        lambda start: read_batches(rows, order, start, config.batch_rows),
        cross_entropy,
        build_optimiser(model, config.optimiser),
        lambda step: multiplier(step, steps, config.schedule),
        steps=steps,
        lr=config.optimiser.lr,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        seed=config.seed,
        bytes_per_token=prepared.card.bytes_per_token,
        flops_per_token=flops_per_token(model.config, prepared.row_length, training=True),
        device=device,
    )


def build_model(
    settings: Mapping[str, Any],
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    seed: int,
    balance: Mapping[str, float] | None = None,
) -> Transformer:
    """The model of `TrainConfig.model`: a checkpoint's weights (`from`), or fresh ones; parameters in fp32.

    `vocab_size` defaults to the tokenizer's. `balance` replaces fields of every MoE layer's `BalanceConfig`.
    """
    if "from" in settings:
        return load_model(settings["from"], "float32", compute_dtype=dtype).model
    config = config_from_hf({"vocab_size": tokenizer.vocab_size} | dict(settings), "model", strict=True)
    if balance:
        data = config.to_dict()
        for block in data["blocks"]:
            if block["ffn"]["kind"] == "moe":
                block["ffn"]["balance"] |= dict(balance)
        config = ModelConfig.from_dict(data, "balance")
    model = Transformer(config, dtype)
    model.initialise(seed)
    return model


def check_fit(config: ModelConfig, tokenizer: Tokenizer, row_length: int) -> None:
    """`ConfigError` when the vocabulary or the row length is more than the model has."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size is {config.vocab_size}; "
            "they do not belong together: use the model's own tokenizer (data.tokenizer) or a larger vocab_size"
        )
    if row_length > config.max_positions:
        raise ConfigError(
            f"data.row_length {row_length} is longer than the model's max_position_embeddings "
            f"{config.max_positions}; shorten the rows or raise it"
        )


def evaluation_documents(prepared: Prepared, max_tokens: int | None = None) -> list[HeldoutDocument]:
    """Held-out documents; with `max_tokens`, every n-th so that about this many tokens are read."""
    documents = [HeldoutDocument(*document) for document in prepared.heldout_documents()]
    total = sum(len(document.ids) for document in documents)
    if max_tokens is None or total <= max_tokens:
        return documents
    return documents[:: -(-total // max_tokens)]


def heldout_bits(model: Transformer, prepared: Prepared, documents: Sequence[HeldoutDocument]) -> float:
    """Bits per byte of `documents` under `model`."""
    return bits_per_byte(score_documents(model, documents, prepared.tokenizer.eos_id, prepared.row_length))


def _callbacks(config: TrainConfig, prepared: Prepared, trainer: Trainer, resume_hint: str) -> list[Callback]:
    out = Path(config.out)
    documents = evaluation_documents(prepared, EVAL_TOKENS)
    tracked: list[Callback] = [] if config.track == "none" else [Track(config.track, out)]

    def write(directory: Path) -> None:
        write_model_files(directory, _model(trainer), prepared.tokenizer)

    # Evaluation before saving, so that its record is older than the checkpoint; interrupts last, for the last word.
    return [
        Evaluate(config.eval_every, lambda t: {"heldout_bits_per_byte": heldout_bits(_model(t), prepared, documents)}),
        SaveCheckpoint(out / "checkpoints", write, config.save_every, config.keep),
        JsonlLog(out / "metrics.jsonl", config.log_every),
        Progress(out.name),
        *tracked,
        Interrupts(resume_hint),
    ]


def _finish(config: TrainConfig, prepared: Prepared, trainer: Trainer, reason: str) -> TrainResult:
    """Write `model` after a finished run, and a last record of what the whole run took."""
    out, final = Path(config.out), None
    evals = [r for r in read_records(out / "metrics.jsonl") if r["kind"] == "eval"]
    bits = evals[-1]["heldout_bits_per_byte"] if evals else None
    if reason == "finished":
        final = out / "model"
        manifest = {
            "recipe": "pretrain",
            "parent": config.model.get("from"),
            "data_card": prepared.card.to_dict(),
            "metrics": {"tokens": trainer.tokens, "steps": trainer.step_count, "heldout_bits_per_byte": bits},
        }
        save_model(final, _model(trainer), prepared.tokenizer, extra=manifest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    place = {"step": trainer.step_count, "tokens": trainer.tokens, "seconds": trainer.seconds}
    trainer.publish({"kind": "end", "reason": reason, **place, "peak_memory_bytes": peak})
    return TrainResult(final, trainer.step_count, trainer.tokens, trainer.seconds, reason, bits)


def _model(trainer: Trainer) -> Transformer:
    assert isinstance(trainer.model, Transformer)
    return trainer.model


def _check_same_run(config: TrainConfig, path: Path) -> None:
    """A directory holds one run; other settings need another one."""
    if not path.is_file():
        return
    before, now = TrainConfig.from_yaml(path).to_dict(), config.to_dict()
    for key in now:
        if key not in _FREE_TO_CHANGE and before[key] != now[key]:
            raise ConfigError(
                f"{path}: holds a run with another '{key}'; choose another 'out', or remove {path.parent} to start anew"
            )
