"""Pretraining: a `TrainConfig` wired into data, model, loop and checkpoints; run again, it goes on where it
stopped.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from coterie.checkpoints.commit import RunLock, read_manifest
from coterie.checkpoints.directory import load_model, load_state_into, save_model
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import ConfigError, ModelConfig
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.data.heldout import HeldoutDocument, spread
from coterie.data.order import Order, read_batches
from coterie.evaluate.bits import bits_per_byte, score_documents
from coterie.families import config_from_hf, config_to_hf
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.glibc import keep_freed_memory
from coterie.nn.transformer import Transformer
from coterie.plan.counts import flops_per_token
from coterie.text.tokenizer import Tokenizer
from coterie.train.callbacks import Callback, Evaluate, Interrupts, JsonlLog, Progress, read_records
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy
from coterie.train.optim import build_optimiser
from coterie.train.run_directory import check_same_run
from coterie.train.saving import SaveCheckpoint, resume
from coterie.train.schedule import multiplier
from coterie.train.track import Track

EVAL_TOKENS = 32768


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

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints/step-NNNNNN` and, when finished,
    `model`, a Hugging Face directory. Errors: `CoterieError` subclasses, one line each.
    """
    out = Path(config.out)
    with RunLock(out):
        check_same_run(config, out / "config.yaml")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        prepared = prepare(
            config.data, config.data_dir or out / "data", lambda line: print(line, file=sys.stderr)
        )
        trainer = build_trainer(config, prepared)
        trainer.callbacks = _callbacks(config, prepared, trainer, resume_hint)

        def load(checkpoint: Path) -> None:
            _check_same_text(checkpoint, prepared)
            load_state_into(_model(trainer), checkpoint)

        path = resume(trainer, out / "checkpoints", load)
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
    if config.mtp_weight and not model.config.num_mtp_layers:
        raise ConfigError("mtp_weight: the model has no layer for multi-token prediction; leave it at 0")
    model.to(device)
    rows = prepared.train_rows()
    order = Order(len(rows), config.seed)
    steps = config.num_steps(prepared.row_length)
    return Trainer(
        model,
        lambda start: read_batches(rows, order, start, config.batch_rows),
        CrossEntropy(),
        build_optimiser(model, config.optimiser),
        lambda step: multiplier(step, steps, config.schedule),
        steps=steps,
        lr=config.optimiser.lr,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        seed=config.seed,
        mtp_weight=config.mtp_weight,
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
        return _given_model(settings["from"], tokenizer, dtype, balance)
    config = config_from_hf({"vocab_size": tokenizer.vocab_size} | dict(settings), "model", strict=True)
    if balance:
        if not config.is_moe:
            raise ConfigError("'balance' is for mixtures of experts and this model is dense; remove it")
        data = config.to_dict()
        for block in data["blocks"]:
            if block["ffn"]["kind"] == "moe":
                block["ffn"]["balance"] |= dict(balance)
        config = ModelConfig.from_dict(data, "balance")
    config_to_hf(
        config
    )  # raises where the family's published form could not store what is about to be trained
    model = Transformer(config, dtype)
    model.initialise(seed)
    return model


def _given_model(
    path: str, tokenizer: Tokenizer, dtype: torch.dtype, balance: Mapping[str, float] | None
) -> Transformer:
    loaded = load_model(path, "float32", compute_dtype=dtype)
    if loaded.tokenizer is not None and loaded.tokenizer.sha256 != tokenizer.sha256:
        raise ConfigError(
            f"model.from {path}: the text was prepared with another tokenizer; set data.tokenizer={loaded.path}"
        )
    if balance:
        raise ConfigError("'balance' does not change a model taken with 'model.from'; remove it")
    return loaded.model


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


def evaluation_documents(
    prepared: Prepared, max_tokens: int, part: Literal["search", "final"] = "search"
) -> list[HeldoutDocument]:
    """Some of the held-out documents, spread evenly, of about `max_tokens` tokens.

    `search` and `final` share no document (unless there is only one): what chose a setting does not judge its
    result.
    """
    everything = prepared.heldout_documents()
    documents = everything[1::2] if part == "search" else everything[::2]
    return spread(documents or everything, max_tokens)


def heldout_bits(model: Transformer, prepared: Prepared, documents: Sequence[HeldoutDocument]) -> float:
    """Bits per byte of `documents` under `model`."""
    return bits_per_byte(score_documents(model, documents, prepared.tokenizer.eos_id, prepared.row_length))


def _callbacks(config: TrainConfig, prepared: Prepared, trainer: Trainer, resume_hint: str) -> list[Callback]:
    out = Path(config.out)
    documents = evaluation_documents(prepared, EVAL_TOKENS)
    tracked: list[Callback] = [] if config.track == "none" else [Track(config.track, out)]

    def write(directory: Path) -> None:
        write_model_files(directory, _model(trainer), prepared.tokenizer)

    # Evaluation before saving, so that its record is older than the checkpoint; interrupts last, for the last
    # word.
    return [
        Evaluate(
            config.eval_every,
            lambda t: {"heldout_bits_per_byte": heldout_bits(_model(t), prepared, documents)},
        ),
        SaveCheckpoint(
            out / "checkpoints",
            write,
            config.save_every,
            config.keep,
            lambda t: {"data": prepared.directory.name},
        ),
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
    place = {"step": trainer.step_count, "tokens": trainer.tokens, "seconds": trainer.seconds}
    trainer.publish({"kind": "end", "reason": reason, **place, "peak_memory_bytes": peak_memory_bytes()})
    if reason == "finished":
        final = out / "model"
        manifest = {
            "recipe": "pretrain",
            "parent": config.model.get("from"),
            "data_card": prepared.card.to_dict(),
            "metrics": {"tokens": trainer.tokens, "steps": trainer.step_count, "heldout_bits_per_byte": bits},
        }
        save_model(final, _model(trainer), prepared.tokenizer, extra=manifest, probes=True)
    return TrainResult(final, trainer.step_count, trainer.tokens, trainer.seconds, reason, bits)


def peak_memory_bytes() -> int:
    """Most memory this program has held at once.

    Linux's `VmHWM`; `ru_maxrss` would also count what the process was before it became this program.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _check_same_text(checkpoint: Path, prepared: Prepared) -> None:
    """The place in the data is a number: with other text it would be another place."""
    before = read_manifest(checkpoint).get("data")
    if before != prepared.directory.name:
        raise ConfigError(
            f"{checkpoint}: was trained on other text (the sources have changed since); choose another 'out'"
        )


def _model(trainer: Trainer) -> Transformer:
    assert isinstance(trainer.model, Transformer)
    return trainer.model
