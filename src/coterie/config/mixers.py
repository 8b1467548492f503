"""Sequence mixers that keep a state of fixed size in place of keys and values."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings

WIDEST = 2**20  # far beyond every published model
CHUNK = 64  # tokens that training works on at once


class DeltaNetConfig(Settings):
    """Gated DeltaNet of one layer (arXiv 2412.06464; docs/design/families.md, Recurrent mixers).

    Each of `num_value_heads` heads keeps a matrix of `key_dim` x `value_dim`. Each of `num_key_heads` heads
    serves as many of them. `kernel`: taps of the causal convolution on queries, keys and values.
    """

    kind: Literal["gated_delta"] = "gated_delta"
    num_key_heads: int = Field(gt=0, le=WIDEST)
    num_value_heads: int = Field(gt=0, le=WIDEST)
    key_dim: int = Field(gt=0, le=WIDEST)
    value_dim: int = Field(gt=0, le=WIDEST)
    kernel: int = Field(4, gt=1, le=1024)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(
                f"num_value_heads {self.num_value_heads} must be a multiple of "
                f"num_key_heads {self.num_key_heads}"
            )
        return self

    @property
    def words(self) -> str:
        """What it is, for people."""
        heads = f"{self.num_value_heads}/{self.num_key_heads} heads of {self.key_dim} x {self.value_dim}"
        return f"gated delta rule, {heads}, convolution of {self.kernel}"

    @property
    def channels(self) -> int:
        """Numbers per token that the convolution reads: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim

    @property
    def output_width(self) -> int:
        """Numbers per token before the output projection."""
        return self.num_value_heads * self.value_dim

    @property
    def state_values(self) -> int:
        """Numbers that one sequence keeps in float32, whatever its length."""
        return self.channels * (self.kernel - 1) + self._matrix

    @property
    def step_flops(self) -> int:
        """Operations per token besides products with matrices: the convolution, and a state's three uses."""
        return 2 * self.channels * self.kernel + 6 * self._matrix

    def vectors(self, width: int) -> int:
        """Parameters that are not in `matrices`: taps, decays, time steps and a norm."""
        return self.channels * self.kernel + 2 * self.num_value_heads + self.value_dim

    @property
    def training_values(self) -> int:
        """Numbers per token that are kept for the backward pass, projections included, within 8 %."""
        heads = self.num_value_heads
        chunked = heads * (6 * self.key_dim + 5 * self.value_dim + 5 * CHUNK)
        return self.channels * (self.kernel + 4) + 3 * self.output_width + chunked

    def matrices(self, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each weight matrix, for a model of `width`."""
        heads = (self.num_value_heads, width)
        out = self.output_width
        return [(self.channels, width), (out, width), heads, heads, (width, out)]

    @property
    def _matrix(self) -> int:
        return self.num_value_heads * self.key_dim * self.value_dim


class ShortConvConfig(Settings):
    """A gated short convolution of one layer (LFM2; docs/design/families.md, Recurrent mixers).

    `channels`: its width. `kernel`: taps. `bias`: of its projections and of the convolution.
    """

    kind: Literal["short_conv"] = "short_conv"
    channels: int = Field(gt=0, le=WIDEST)
    kernel: int = Field(3, gt=1, le=1024)
    bias: bool = False

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"gated convolution, {self.kernel} taps"

    @property
    def output_width(self) -> int:
        """Numbers per token before the output projection."""
        return self.channels

    @property
    def state_values(self) -> int:
        """Numbers that one sequence keeps in float32, whatever its length."""
        return self.channels * (self.kernel - 1)

    @property
    def step_flops(self) -> int:
        """Operations per token besides products with matrices: two gates and the convolution."""
        return 2 * self.channels * (self.kernel + 1)

    @property
    def training_values(self) -> int:
        """Numbers per token that are kept for the backward pass, projections included, within 8 %."""
        return self.channels * (self.kernel + 5)

    def vectors(self, width: int) -> int:
        """Parameters that are not in `matrices`: taps and biases."""
        return self.channels * self.kernel + (4 * self.channels + width if self.bias else 0)

    def matrices(self, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each weight matrix, for a model of `width`."""
        return [(3 * self.channels, width), (width, self.channels)]


class Mamba2Config(Settings):
    """Mamba-2 of one layer (arXiv 2405.21060; docs/design/families.md, Recurrent mixers).

    `num_heads` heads of `head_dim` keep a matrix of `state` x `head_dim` each; the heads of one of the
    `groups` share keys and queries. `kernel`: taps of the convolution, with a bias where `conv_bias`. `bias`:
    of the projections. Time steps stay between `step_low` and `step_high` (None: no limit).
    """

    kind: Literal["mamba2"] = "mamba2"
    num_heads: int = Field(gt=0, le=WIDEST)
    head_dim: int = Field(gt=0, le=WIDEST)
    state: int = Field(gt=0, le=WIDEST)
    groups: int = Field(1, gt=0, le=WIDEST)
    kernel: int = Field(4, gt=1, le=1024)
    conv_bias: bool = True
    bias: bool = False
    step_low: float = Field(0.0, ge=0)
    step_high: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_heads % self.groups:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of groups {self.groups}")
        return self

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"Mamba-2, {self.num_heads} heads of {self.state} x {self.head_dim}"

    @property
    def channels(self) -> int:
        """Numbers per token that the convolution reads: what is written, keys and queries."""
        return self.output_width + 2 * self.groups * self.state

    @property
    def output_width(self) -> int:
        """Numbers per token before the output projection."""
        return self.num_heads * self.head_dim

    @property
    def state_values(self) -> int:
        """Numbers that one sequence keeps in float32, whatever its length."""
        return self.channels * (self.kernel - 1) + self.output_width * self.state

    @property
    def step_flops(self) -> int:
        """Operations per token besides products with matrices: the convolution, and a state's two uses."""
        return 2 * self.channels * self.kernel + 4 * self.output_width * self.state

    @property
    def training_values(self) -> int:
        """Numbers per token that are kept for the backward pass, projections included, within 8 %."""
        states = 3 * self.output_width * self.state // (2 * CHUNK)
        chunked = self.num_heads * (5 * self.state + 3 * CHUNK) + 6 * self.output_width + states
        return self.channels * (self.kernel + 4) + chunked

    def vectors(self, width: int) -> int:
        """Parameters that are not in `matrices`: taps, decays, time steps, skips, a norm and biases."""
        inside = self.output_width + self.channels + self.num_heads
        biases = (self.channels if self.conv_bias else 0) + (inside + width if self.bias else 0)
        return self.channels * self.kernel + 3 * self.num_heads + self.output_width + biases

    def matrices(self, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each weight matrix, for a model of `width`."""
        inner = self.output_width
        return [(inner, width), (self.channels, width), (self.num_heads, width), (width, inner)]


StateMixer = DeltaNetConfig | ShortConvConfig | Mamba2Config
STATE_MIXERS = (DeltaNetConfig, ShortConvConfig, Mamba2Config)
