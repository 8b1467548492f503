"""The models that one engine runs, and the native plan of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie.config import ConfigError
from coterie.config.kernels import Kernels
from coterie.native.choice import describe, plan_for
from coterie.nn.kernels import one_pass
from coterie.nn.transformer import Transformer

if TYPE_CHECKING:
    from coterie.native.plan import NativePlan


class Variant:
    """One of the models that an engine runs; they may share weights.

    `serial` differs between successive models of the same name. `now`: the plan is made at once, not at the
    first decoding step.
    Errors: `ConfigError` for kernels `native` where the model has no native plan.
    """

    def __init__(self, model: Transformer, serial: int, kernels: Kernels = "auto", now: bool = False) -> None:
        self.model = model
        self.serial = serial
        self.routers = model.routers()
        self.rope_switch = model.config.rope_switch
        self._kernels = kernels
        self._plan: NativePlan | str | None = None
        if now:
            self.make_plan()
        if kernels == "native" and isinstance(self.plan, str):
            raise ConfigError(f"--kernels native: {self.plan}; use auto or torch")

    @property
    def plan(self) -> NativePlan | str:
        """The native plan, made when first asked for, or why there is none."""
        self.make_plan()
        assert self._plan is not None
        return self._plan

    @property
    def kernels(self) -> str:
        """One line: what the model's decoding steps run on, and why."""
        return describe(self.plan)

    @property
    def has_plan(self) -> bool:
        """Whether a native plan was made."""
        return self._plan is not None and not isinstance(self._plan, str)

    def make_plan(self) -> None:
        """Make the plan now."""
        if self._plan is None:
            self._plan = plan_for(self.model, self._kernels)
            if self.has_plan and self._kernels == "auto":
                one_pass.ready()  # what prompts run on: else the first long one would wait for a compiler

    def refresh(self) -> None:
        """Forget a plan that reads weights which the model no longer has."""
        if self._plan is not None and not isinstance(self._plan, str) and not self._plan.is_current():
            self._plan = None
