"""The one training loop. It knows neither the method (an objective) nor the callbacks' work.

Sums come first, then one division: every micro-batch contributes `objective sum / weight of the whole step`.
Gradient accumulation, padding and the number of processes therefore cannot change a step.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.checkpoints.train_state import TrainState
from coterie.config.errors import CheckpointError, TrainingError
from coterie.data.rows import Row
from coterie.machine.processes import Processes
from coterie.nn.kernels import measured
from coterie.nn.logprobs import token_logprobs
from coterie.nn.mtp import shifted_targets
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.callbacks import Callback
from coterie.train.objective import Objective
from coterie.train.optim import Optimiser
from coterie.train.running import NoMoreSteps, Record

_log = logging.getLogger("coterie")

Batches = Callable[[int], Iterator[list[Row]]]
"""Maps a sample number to the rows of each micro-batch from there on (`data.order.read_batches`).

A resumed run calls it again, so one integer is the run's place in its data. It may end the run between two
steps by `train.running.NoMoreSteps`.
"""


def learnt_logprobs(h_TD: Tensor, head_VD: Tensor, batch: Batch, cap: float | None) -> Tensor:
    """(T,) float32: the log-probabilities of the targets; 0 for those that are not learnt, if they are many.

    The head is as wide as the vocabulary, so what nobody reads is not computed.
    """
    index_N = batch.learnt_N
    if index_N is None:
        return token_logprobs(h_TD, head_VD, batch.targets_T, cap=cap)
    logp_N = token_logprobs(h_TD[index_N], head_VD, batch.targets_T[index_N], cap=cap)
    return torch.zeros(len(h_TD), device=h_TD.device).index_copy(0, index_N, logp_N)


class Trainer:
    """Steps a model over rows.

    `model(ids_T, context) -> h_TD` must have `head_weight`; its `after_step()` and `training_buffers()` are
    optional. `schedule(step)` is the factor on `lr` of step 0, 1, ... One step takes `accumulate`
    micro-batches. `mtp_weight`: weight of the multi-token prediction loss, added to the objective.
    `balance_prompts` False: router statistics cover learnt positions alone. `share_prompts`: a prompt that
    neighbouring rows have in common is computed once (`train.batch.collate`). `bytes_per_token` converts nats
    per token into bits per byte. `flops_per_token`: forward and backward. Creating a trainer seeds PyTorch
    with `seed`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        objective: Objective,
        optimiser: Optimiser,
        schedule: Callable[[int], float],
        callbacks: Sequence[Callback] = (),
        *,
        steps: int,
        lr: float,
        accumulate: int = 1,
        clip_norm: float | None = 1.0,
        seed: int = 0,
        mtp_weight: float = 0.0,
        balance_prompts: bool = True,
        share_prompts: bool = False,
        bytes_per_token: float | None = None,
        flops_per_token: float = 0.0,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self.batches = batches
        self.objective = objective
        self.optimiser = optimiser
        self.schedule = schedule
        self.callbacks = list(callbacks)
        self.steps = steps
        self.lr = lr
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.seed = seed
        self.mtp_weight = mtp_weight
        self.balance_prompts = balance_prompts
        self.share_prompts = share_prompts
        self.bytes_per_token = bytes_per_token
        self.flops_per_token = flops_per_token
        self.device = torch.device(device)
        self.processes = processes or Processes.current()
        self.step_count = 0
        self.tokens = 0
        self.next_sample = 0
        self.seconds = 0.0
        self.stop_reason: str | None = None
        self.last_checkpoint: str | None = None
        self._reader: Iterator[list[Row]] | None = None
        torch.manual_seed(seed)

    def stop(self, reason: str) -> None:
        """Ask `run` to end after the current step."""
        self.stop_reason = self.stop_reason or reason

    def publish(self, record: Record) -> None:
        """Hand a record of measurements to every callback."""
        for callback in self.callbacks:
            callback.on_record(self, record)

    def saved(self, path: Path) -> None:
        """Note `path` as the newest good checkpoint and inform every callback."""
        self.last_checkpoint = str(path)
        for callback in self.callbacks:
            callback.on_save(self, path)

    def run(self) -> str:
        """Step until the budget or a `stop`. Returns why it ended: `finished` or the reason given."""
        error: BaseException | None = None
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            while self.step_count < self.steps and self.stop_reason is None:
                try:
                    self.publish(self.step())
                except NoMoreSteps as ended:
                    self.stop(str(ended))
                    break
                for callback in self.callbacks:
                    callback.after_step(self)
                # Time limits and signals reach processes at different moments; all end after the same step.
                self.stop_reason = self.processes.first_reason(self.stop_reason)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(error)
        return self.stop_reason or "finished"

    def step(self) -> Record:
        """One optimiser step; returns its record (`train.callbacks.TRAIN_FIELDS`).

        Errors: `TrainingError` when the loss or a gradient is not finite. The weights are then as before the
        step.
        """
        started = time.perf_counter()
        batches = self._fetch()
        weight, num_valid, num_rows, num_counted = self._global_counts(batches)
        loss, metrics = self._accumulate(batches, weight, num_counted)
        for callback in self.callbacks:
            callback.after_backward(self)
        norm = self._reduce_and_clip()
        self._require_finite(loss, norm)
        lr = self.lr * self.schedule(self.step_count)
        self.optimiser.step(lr)
        self._sum_router_statistics()
        after_step = getattr(self.model, "after_step", None)
        balance = after_step() if after_step else {}
        self.objective.after_step(self.processes)
        self.step_count += 1
        self.tokens += num_valid
        self.next_sample += num_rows
        took = time.perf_counter() - started
        self.seconds += took
        return self._record(float(loss), float(norm), lr, num_valid / took, {**balance, **metrics})

    def state(self) -> TrainState:
        """Everything a resumed run needs besides the model's own files."""
        tensors = {f"optimiser.{name}": value for name, value in self.optimiser.state_tensors().items()}
        tensors |= {f"buffer.{name}": value for name, value in self._buffers().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        progress = {
            "step": self.step_count,
            "tokens": self.tokens,
            "next_sample": self.next_sample,
            "seconds": self.seconds,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": measured.machine(),
            "products": dict(measured.in_use() or {}),
        }
        states = {type(one).__name__: one.state_dict() for one in self._stateful()}
        return TrainState(progress, tensors, {name: state for name, state in states.items() if state})

    def load_state(self, state: TrainState) -> None:
        """Restore `state`. The caller loads the model's weights itself.

        Errors: `CheckpointError` for the state of another seed, model or optimiser, or a damaged one.
        """
        progress = state.progress
        if progress["seed"] != self.seed:
            raise CheckpointError(
                f"the checkpoint was trained with seed {progress['seed']}, this run has {self.seed}; "
                "use the same seed"
            )
        groups: dict[str, dict[str, Tensor]] = {"optimiser": {}, "buffer": {}, "rng": {}}
        for name, value in state.tensors.items():
            group, _, rest = name.partition(".")
            if group not in groups:
                raise CheckpointError(f"the checkpoint holds '{name}', which this version does not know")
            groups[group][rest] = value
        self.optimiser.load_state_tensors(groups["optimiser"])
        buffers = self._buffers()
        if buffers.keys() != groups["buffer"].keys():
            odd = sorted(buffers.keys() ^ groups["buffer"].keys())[0]
            raise CheckpointError(
                f"the checkpoint and the model differ in the buffer '{odd}'; resume the same model"
            )
        for name, buffer in buffers.items():
            if groups["buffer"][name].shape != buffer.shape:
                raise CheckpointError(f"the checkpoint's buffer '{name}' has another shape than the model's")
            buffer.copy_(groups["buffer"][name])
        try:
            torch.set_rng_state(groups["rng"]["cpu"])
            if self.device.type == "cuda" and "cuda" in groups["rng"]:
                torch.cuda.set_rng_state(groups["rng"]["cuda"], self.device)
        except (KeyError, RuntimeError, TypeError):
            raise CheckpointError("the checkpoint's random state is missing or damaged") from None
        self._reader = None
        self.step_count, self.tokens = progress["step"], progress["tokens"]
        self.next_sample, self.seconds = progress["next_sample"], progress["seconds"]
        for one in self._stateful():
            name = type(one).__name__
            try:
                if name in state.callbacks:
                    one.load_state_dict(state.callbacks[name])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"the checkpoint's state of {name} is damaged ({error!r})") from None

    def _end(self, error: BaseException | None) -> None:
        """End every callback, then raise their first error, unless the run already fails with one."""
        first: Exception | None = None
        for callback in self.callbacks:
            try:
                callback.on_end(self, error)
            except Exception as raised:
                first = first or raised
        if first is None:
            return
        if error is None:
            raise first
        _log.warning("at the end of the failed run: %s", first)

    def _stateful(self) -> list[Objective | Callback]:
        return [self.objective, *self.callbacks]

    def _buffers(self) -> dict[str, Tensor]:
        training_buffers = getattr(self.model, "training_buffers", None)
        return training_buffers() if training_buffers else {}

    def _fetch(self) -> list[Batch]:
        """All micro-batches of the step, so that its tokens are counted before any of it runs."""
        if self._reader is None:
            self._reader = self.batches(self.next_sample)
        batches = [
            collate(rows, self.device, self.balance_prompts, self.share_prompts)
            for rows in itertools.islice(self._reader, self.accumulate)
        ]
        if len(batches) < self.accumulate:
            raise TrainingError(
                f"step {self.step_count + 1}: the data ends at sample {self.next_sample}; give more "
                "data or fewer steps"
            )
        for batch in batches:
            self.objective.require(batch)
        return batches

    def _global_counts(self, batches: list[Batch]) -> tuple[float, int, int, int]:
        """Token weight, valid tokens, rows and counted tokens of the step over all processes."""
        mine = [(self.objective.weight(b), b.num_valid, b.num_rows, b.num_counted) for b in batches]
        counts = torch.tensor(mine, dtype=torch.float64).sum(0)
        self.processes.sum_in_place([counts])
        weight, num_valid, num_rows, num_counted = counts.tolist()
        if weight <= 0:
            raise TrainingError(
                f"step {self.step_count + 1}: no token has a positive weight (samples "
                f"{self.next_sample} on); "
                "look at the rows with `coterie data lint`"
            )
        return weight, int(num_valid), int(num_rows), int(num_counted)

    def _accumulate(
        self, batches: list[Batch], weight: float, num_counted: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Forward and backward of each micro-batch; the mean loss and metrics of the step."""
        self.model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        sums: dict[str, Tensor] = {}
        for batch in batches:
            context = replace(batch.context, balance_tokens=float(num_counted))
            batch = replace(batch, context=context)
            h_TD = self.model(batch.ids_T, context)
            head_VD: Tensor = self.model.head_weight  # type: ignore[assignment]
            logp_T = learnt_logprobs(h_TD, head_VD, batch, self._logit_cap)
            derived = self.objective.derive(h_TD, head_VD, batch)
            if derived:
                batch = replace(batch, streams={**batch.streams, **derived})
            total, metrics = self.objective(logp_T, batch)
            if self.mtp_weight:
                further = self._predict_further(h_TD, batch)
                total, metrics = total + self.mtp_weight * further, metrics | {"mtp_loss": further}
            if total.requires_grad:  # False where only biases that follow a rule move
                (total / weight).backward()
            loss += total.detach()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        self.processes.sum_in_place([loss, *sums.values()])
        return loss / weight, {name: float(value) / weight for name, value in sums.items()}

    @property
    def _logit_cap(self) -> float | None:
        return self.model.logit_cap if isinstance(self.model, Transformer) else None

    def _sum_router_statistics(self) -> None:
        """Sum router statistics over all processes, so that every process balances by the global batch."""
        if self.processes.world > 1 and isinstance(self.model, Transformer):
            for _, router in self.model.routers():
                balance = router.balance
                self.processes.sum_in_place(
                    [balance.counts_E, balance.score_sum_E, balance.z_sum, balance.num_tokens]
                )

    def _predict_further(self, h_TD: Tensor, batch: Batch) -> Tensor:
        """Multi-token prediction loss: the sum of -log p over later targets, averaged over its layers."""
        sums = []
        targets_T, weights_T = batch.targets_T, batch.weights_T
        layers = self.model.predict_further(h_TD, batch.targets_T, batch.context)  # type: ignore[operator]
        for further_TD in layers:
            targets_T, weights_T = shifted_targets(targets_T, weights_T, batch.context)
            head_VD: Tensor = self.model.head_weight  # type: ignore[assignment]
            logp_T = token_logprobs(further_TD, head_VD, targets_T, cap=self._logit_cap)
            sums.append(-(logp_T * weights_T).sum())
        return torch.stack(sums).mean()

    def _reduce_and_clip(self) -> Tensor:
        """Global gradient norm before clipping."""
        parameters = list(self.optimiser.parameters.values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.processes.sum_in_place(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return norm

    def _require_finite(self, loss: Tensor, norm: Tensor) -> None:
        """Check loss and norm with a single wait for the device; a NaN in any gradient makes the norm NaN."""
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            return
        self.optimiser.zero_grad()
        what = "loss" if not math.isfinite(float(loss)) else "gradient"
        last = f"; the last good checkpoint is {self.last_checkpoint}" if self.last_checkpoint else ""
        raise TrainingError(
            f"step {self.step_count + 1}: the {what} is not finite, so no update was made; "
            f"try a smaller optimiser.lr or a longer warmup{last}"
        )

    def _record(self, loss: float, norm: float, lr: float, speed: float, more: dict[str, float]) -> Record:
        per_byte = loss / math.log(2) / self.bytes_per_token if self.bytes_per_token else None
        record: dict[str, Any] = {
            "kind": "train",
            "step": self.step_count,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "flops": self.flops_per_token * self.tokens,
            "loss": loss,
            "bits_per_byte": per_byte,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_second": speed,
            "eta_s": self.seconds / self.step_count * (self.steps - self.step_count),
        }
        return record | more
