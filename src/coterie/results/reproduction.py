"""What a replay of an evaluation found: the predicate of a signed `reproduced` statement."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coterie.config import Settings
from coterie.results.evaluation import ExecProfile, ModelIdentity


class TaskReproduction(Settings):
    """The replay of one task: `items` of the report's `of` records.

    `mismatches`: how many differ from the report; `first`: a few of them, in words. `finds`: the probability
    that the replay finds an inflation, by the share of items that were inflated. Of a noisy replay also what
    `evaluate.replay.NoisyTests` says.
    """

    task: str
    items: int
    of: int
    mismatches: int
    first: list[str] = Field(default_factory=list)
    finds: dict[str, float] = Field(default_factory=dict)
    noise: float | None = None
    p_lost: float | None = None
    p_flips: float | None = None
    p_logprobs: float | None = None
    reproduced: bool


class Reproduction(Settings):
    """The replay of a report. `report`: its digest. `nonce`: with the digest it says which items were drawn.

    `mode`: `exact` compares bits, `noisy` tests against the noise of two honest runs.
    """

    report: str
    nonce: str
    mode: Literal["exact", "noisy"]
    model: ModelIdentity
    exec_profile: ExecProfile
    tasks: list[TaskReproduction]
    reproduced: bool
