"""What each class of a model's weights is held in: `int4`, or `experts=int4,attention=bf16,head=int8`."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from coterie.config.base import Settings, suggest
from coterie.config.errors import ConfigError

WeightForm = Literal["f32", "bf16", "f16", "int8", "int4"]
WeightClass = Literal["attention", "experts", "shared", "dense", "head", "embedding"]
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)
WEIGHT_CLASSES: tuple[WeightClass, ...] = get_args(WeightClass)
# What a form alone speaks of, and what `ffn` does; head and embedding are only changed by their names.
_MATRICES: tuple[WeightClass, ...] = ("attention", "experts", "shared", "dense")
_SHORT: dict[str, tuple[WeightClass, ...]] = {"ffn": ("shared", "dense")}
_BITS: dict[str, int] = {"int8": 8, "int4": 4}


class Precision(Settings):
    """What the weights of each class are held in; None: as they are stored, or in the type of the model.

    The classes are groups of `nn.parameter_groups`; norms and routers stay as they are. `int8`, `int4`: codes
    with one scale for every `block` numbers of a row. `stored`: codes that the files hold are kept as they
    are where their grid is one of ours and the class is not named.
    """

    attention: WeightForm | None = None
    experts: WeightForm | None = None
    shared: WeightForm | None = None
    dense: WeightForm | None = None
    head: WeightForm | None = None
    embedding: WeightForm | None = None
    block: int = Field(64, gt=0)
    stored: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embedding in _BITS:
            raise ValueError(f"embedding={self.embedding}: its rows are looked up; it takes f32, bf16 or f16")
        return self

    @classmethod
    def parse(cls, text: str) -> Precision:
        """A table such as `int4,attention=bf16,block=32`; later entries win.

        A form alone stands for attention, experts, shared and dense feed-forwards; `ffn` for the last two.
        `stored`: as the files have it. `none`: nothing in fewer bits, stored codes are widened.
        Errors: `ConfigError`, one line, for an unknown class or form.
        """
        if text.strip() in ("stored", "none"):
            return cls(stored=text.strip() == "stored")
        values: dict[str, object] = {}
        for item in text.split(","):
            name, equals, form = (part.strip() for part in item.partition("="))
            if not equals:
                values |= dict.fromkeys(_MATRICES, _form(name, text))
            elif name == "block":
                values["block"] = form
            else:
                values |= dict.fromkeys(_classes(name, text), _form(form, text))
        return cls.from_dict(values, where=f"quant: {text}")

    def form(self, group: str) -> WeightForm | None:
        """What a class is asked to be held in; None where nothing is asked."""
        found: WeightForm | None = getattr(self, group) if group in WEIGHT_CLASSES else None
        return found

    def bits(self, group: str) -> int | None:
        """The bits of a class that is asked for in codes; None for others."""
        return _BITS.get(self.form(group) or "")

    @property
    def named(self) -> dict[str, str]:
        """The classes that something is asked for, with their forms."""
        return {group: form for group in WEIGHT_CLASSES if (form := self.form(group)) is not None}

    def __str__(self) -> str:
        """The text that `parse` reads as the same table."""
        if not self.named:
            return "stored" if self.stored else "none"
        parts = [f"{group}={form}" for group, form in self.named.items()]
        return ",".join([*parts, *([f"block={self.block}"] if self.block != 64 else [])])


def _form(given: str, text: str) -> str:
    if given in WEIGHT_FORMS:
        return given
    hint = suggest(given, WEIGHT_FORMS) or f"; forms: {', '.join(WEIGHT_FORMS)}, stored, none"
    raise ConfigError(f"quant: {text[:80]}: '{given[:40]}' is no form of weights{hint}")


def _classes(given: str, text: str) -> tuple[WeightClass, ...]:
    if given in _SHORT:
        return _SHORT[given]
    for group in WEIGHT_CLASSES:
        if given == group:
            return (group,)
    known = [*WEIGHT_CLASSES, *_SHORT]
    hint = suggest(given, known) or f"; classes: {', '.join(known)}"
    raise ConfigError(f"quant: {text[:80]}: '{given[:40]}' is no class of weights{hint}")
