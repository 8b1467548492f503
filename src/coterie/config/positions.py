"""Positions as data: rotary frequencies, their scaling, and queries that grow with their position."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings
from coterie.config.mixers import WIDEST as _WIDEST


class RopeScaling(Settings):
    """Frequency scaling for long contexts (docs/design/families.md, Rotary positions).

    `linear`: divide all by `factor`. `llama3`: by wavelength, `low_freq_factor` and `high_freq_factor`.
    `yarn`: a ramp between the dimensions that turn `beta_fast` and `beta_slow` times in the original context,
    rounded outwards where `truncate`; cos and sin are multiplied by `attention_factor`, by default g(mscale)
    / g(mscale_all_dim) where both are given and else g(1), with g(m) = 0.1 m ln(factor) + 1. `MLAConfig` also
    multiplies its softmax scale by g(mscale_all_dim)^2. `longrope`: divide the j-th by `short_factors[j]`,
    or by `long_factors[j]` in sequences that are planned to be longer than the original context; cos and sin
    are multiplied by `attention_factor`, by default sqrt(1 + ln(factor) / ln(original context)).
    """

    kind: Literal["llama3", "linear", "yarn", "longrope"]
    factor: float = Field(gt=0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = Field(8192, gt=0)
    beta_fast: float = Field(32.0, gt=0)
    beta_slow: float = Field(1.0, gt=0)
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = Field(None, gt=0)
    short_factors: tuple[float, ...] | None = None
    long_factors: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        yarn = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
        longrope = ("short_factors", "long_factors", "attention_factor")
        own = {"yarn": yarn, "longrope": longrope}.get(self.kind, ())
        for name in (*yarn, *longrope):
            if name not in own and getattr(self, name) != type(self).model_fields[name].default:
                owner = "yarn" if name in yarn else "longrope"
                raise ValueError(f"'{name}' belongs to kind '{owner}', not to '{self.kind}'")
        if self.kind == "longrope" and not (self.short_factors and self.long_factors):
            raise ValueError("kind 'longrope' needs short_factors and long_factors")
        if self.kind == "longrope" and self.original_max_positions < 2:
            raise ValueError("kind 'longrope' needs an original context of more than one position")
        return self


class RopeConfig(Settings):
    """Rotary positions. `half` rotates (x[j], x[j + D/2]); `pairs` rotates (x[2j], x[2j + 1]) in fp32.

    `rotated`: how many numbers of a head rotate (None: all D). They are its first ones, with frequencies
    `theta^(-2j / rotated)`; where `proportional`, its first `rotated / 2` pairs of all D/2, with frequencies
    `theta^(-2j / D)`.
    """

    theta: float = Field(10000.0, gt=0)
    style: Literal["half", "pairs"] = "half"
    scaling: RopeScaling | None = None
    rotated: int | None = Field(None, gt=0, multiple_of=2, le=_WIDEST)
    proportional: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scaling is not None and self.scaling.kind == "yarn" and self.theta <= 1:
            raise ValueError("yarn scaling needs theta above 1")
        if self.proportional and (self.rotated is None or self.style != "half" or self.scaling is not None):
            raise ValueError("proportional rotation needs 'rotated', style 'half' and no scaling")
        return self

    def check_width(self, width: int) -> None:
        """Errors: `ValueError` where a head of `width` numbers cannot rotate so."""
        rotated = width if self.rotated is None else self.rotated
        if rotated > width:
            raise ValueError(f"rope.rotated {rotated} is larger than the {width} numbers of a head")
        if self.scaling is None or self.scaling.kind != "longrope":
            return
        for factors in (self.scaling.short_factors or (), self.scaling.long_factors or ()):
            if len(factors) != rotated // 2 or min(factors) <= 0:
                raise ValueError(f"longrope needs {rotated // 2} factors above 0, not {len(factors)}")


class TemperatureConfig(Settings):
    """Queries are multiplied by `log1p(floor((position + offset) / floor_scale)) * scale + 1`.

    Llama 4 does so in its layers without positions, with offset 1; Ministral 3 in all layers, with 0.
    """

    floor_scale: int = Field(8192, gt=0)
    scale: float = 0.1
    offset: Literal[0, 1] = 1
