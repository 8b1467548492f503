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
        """About how many numbers per token are kept for the backward pass, projections included."""
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
        """About how many numbers per token are kept for the backward pass, projections included."""
        return self.channels * (self.kernel + 7)

    def vectors(self, width: int) -> int:
        """Parameters that are not in `matrices`: taps and biases."""
        return self.channels * self.kernel + (4 * self.channels + width if self.bias else 0)

    def matrices(self, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each weight matrix, for a model of `width`."""
        return [(3 * self.channels, width), (width, self.channels)]


StateMixer = DeltaNetConfig | ShortConvConfig
STATE_MIXERS = (DeltaNetConfig, ShortConvConfig)
