"""What a tuning run would cost here: memory from its settings, time from a few steps of its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coterie.config import ExpertSelection
from coterie.plan.tuning import TunePlan, TuneSettings, plan_tune
from coterie.recipes.step_time import step_seconds
from coterie.recipes.tune_run import TuneRun
from coterie.report.words import duration, size


@dataclass(frozen=True)
class TuneCost:
    """`peak_bytes`: memory of the largest phase. `step_seconds`: of one optimiser step. `seconds`: of all."""

    peak_bytes: int
    step_seconds: float
    seconds: float

    def words(self) -> str:
        """One line."""
        return (
            f"cost         about {size(self.peak_bytes)} of memory, {self.step_seconds:.2g} s a step, "
            f"{duration(self.seconds)} in all (held-out examples and proofs come on top)"
        )


def tuning_cost(run: TuneRun) -> TuneCost:
    """The cost of a run that was built. Takes about five seconds."""
    config = run.tuned.model.config
    plan = planned(run)
    step = step_seconds(config, plan.settings)
    return TuneCost(plan.peak, step, step * run.trainer.steps)


def planned(run: TuneRun) -> TunePlan:
    """The plan of a run's own settings."""
    model, data, config = run.tuned.model, run.data, run.config
    adapter = model.adapter
    chosen = None if config.experts is None else ExpertSelection.from_file(config.experts)
    settings = TuneSettings(
        method=config.method,
        rank=config.rank,
        dtype_bytes=max(2, min(4, model.embed.weight.element_size())),
        activation_bytes=model.compute_dtype.itemsize,
        quant="none" if adapter is None else adapter.quant,
        row_length=data.row_length,
        batch_rows=data.batch_rows,
        accumulate=config.accumulate,
        recompute=config.recompute,
    )
    if chosen is not None:
        settings = replace(settings, experts={n: len(found) for n, found in chosen.experts.items()})
    return plan_tune(model.config, settings)
