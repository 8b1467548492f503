"""What a reinforcement run is, as data: model, task, rollouts, the policy gradient's switches, checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from coterie.config.base import Settings, number_as_text
from coterie.config.effects import Effect, Effects
from coterie.config.method_run import MethodRun, TuneSchedule, hold_short_names
from coterie.config.run_effects import METHOD_EFFECTS

Advantage = Literal["mean", "group_std", "batch_std", "rloo", "maxrl"]
Clip = Literal["none", "ppo", "dual", "cispo"]
Replay = Literal["none", "sampler", "trainer"]

REINFORCE_EFFECTS: Effects = {
    "policy.clip_low": Effect(lambda s, _: s.policy.clip in ("ppo", "dual"), "policy.clip=ppo", True),
    "policy.clip_high": Effect(lambda s, _: s.policy.clip != "none", "a policy.clip other than none", True),
    "policy.replay": Effect(lambda _, facts: facts.moe is not False, "a mixture of experts", True),
    "policy.kl": Effect(lambda s, _: s.policy.kl_weight > 0, "a policy.kl_weight above 0", True),
    "pass_at.samples": Effect(lambda s, _: s.pass_at.problems > 0, "pass_at.problems above 0", True),
    "max_turns": Effect(lambda _, facts: facts.tools is not False, "a task with tools", True),
    "max_context": Effect(lambda _, facts: facts.tools is not False, "a task with tools"),
    "max_forgetting": Effect(lambda s, _: False, "a tuning run"),
    "retention": Effect(lambda s, _: False, "a tuning run", True),
} | dict(METHOD_EFFECTS)


class PolicySettings(Settings):
    """The four switches of the policy gradient, and the KL to the model of the start.

    `advantage`: how rewards of a group become advantages. `ratio`: of single tokens or of whole replies.
    `clip`: what bounds a step away from the policy that sampled. `aggregate`: what the sum over tokens is
    divided by: replies times `max_tokens` (const), sampled tokens (token_mean), or each reply by its own
    length (seq_mean). `replay`: whether training takes the experts that were chosen while sampling (sampler)
    or by the weights before the first update (trainer), or chooses anew (none). Formulas and sources:
    `train.policy_gradient`, `reinforce.replay`.
    """

    advantage: Advantage = "mean"
    ratio: Literal["token", "sequence"] = "token"
    clip: Clip = "none"
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    aggregate: Literal["const", "token_mean", "seq_mean"] = "const"
    kl: Literal["k1", "k2", "k3"] = "k2"
    kl_weight: float = Field(0.0, ge=0)
    replay: Replay = "none"


class PassAtSettings(Settings):
    """Before and after a run, `samples` replies to each of `problems` held-out problems (0: not measured)."""

    problems: int = Field(32, ge=0)
    samples: int = Field(16, gt=1)


class ReinforceConfig(MethodRun):
    """One reinforcement run.

    Each step takes `prompts` problems of `task` at `levels`, samples `group` replies of at most `max_tokens`
    tokens to each at temperature 1, and learns from their rewards with `updates` optimiser steps. Groups
    whose replies all earn the same teach nothing and are replaced, up to `refills` times a step; a step
    needs `least_groups` groups with a signal at least, and the learning rate is lowered by the root of the
    share that `prompts` has of them. `steps` counts optimiser steps.

    In tasks with tools `max_tokens` are those that the model writes in a whole conversation. It has at most
    `max_turns` replies and, results of tools included, `max_context` tokens (default: the model's positions).

    `instruction`: a system message says how to answer. `eval_problems` of the split `val` are answered
    greedily every `eval_every` steps, and as many of `test` before and after, the first of them also by
    sampling (`pass_at`). `reward_weights`: of the parts of a reward that has several. `pool`: a file of
    `coterie pool`, whose problems are the only ones that are trained on; it says the levels. `gate`: whether
    the run refuses to start without a signal to learn from. `guard`: whether a run that collapses
    (`reinforce.collapse`) ends with the weights of its best evaluation (stop), is warned of (warn), or goes
    on (off).
    """

    effects: ClassVar[Effects] = REINFORCE_EFFECTS
    free_to_change: ClassVar[frozenset[str]] = MethodRun.free_to_change | {"gate", "guard"}

    task: str
    levels: str | None = None
    pool: str | None = None
    out: str = "runs/reinforce"
    steps: int = Field(100, gt=0)
    prompts: int = Field(32, gt=0)
    group: int = Field(8, gt=1)
    max_tokens: int = Field(128, gt=0)
    max_turns: int = Field(16, gt=0)
    max_context: int | None = Field(None, gt=0)
    updates: int = Field(1, gt=0)
    refills: int = Field(3, ge=0)
    least_groups: int = Field(4, gt=0)
    policy: PolicySettings = PolicySettings()
    reward_weights: dict[str, float] = Field(default_factory=dict)
    instruction: bool = False
    eval_problems: int = Field(200, gt=0)
    eval_every: int = Field(20, ge=0)
    pass_at: PassAtSettings = PassAtSettings()
    save_every: int = Field(20, ge=0)
    gate: bool = True
    guard: Literal["stop", "warn", "off"] = "stop"
    balance: Literal["arch", "none"] | float = "none"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    schedule: TuneSchedule = TuneSchedule(kind="constant")

    _levels = field_validator("levels", mode="before")(number_as_text)

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        result = dict(data)
        hold_short_names(result)
        return result

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.pool is not None and self.levels is not None:
            raise ValueError("the pool says which levels are trained on; leave 'levels' out")
        if self.least_groups > self.prompts:
            raise ValueError(f"least_groups {self.least_groups} is more than prompts {self.prompts}")
        if self.prompts % (self.updates * self.accumulate):
            raise ValueError(
                f"prompts {self.prompts} cannot be shared by {self.updates} updates of {self.accumulate} "
                "micro-batches; give a multiple"
            )
        if self.updates > 1 and self.policy.clip == "none":
            raise ValueError("more than one update needs a bound: policy.clip=ppo (or dual, cispo)")
        return self
