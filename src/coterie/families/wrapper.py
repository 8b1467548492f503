"""Models around a text model: its settings are in `text_config`, its tensors under another prefix.

What surrounds it (encoders of images and sound, projectors) is carried through unchanged and not run. The
model is named by the outer `model_type`; the text model's own type decides how its part is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coterie.config import ConfigError, ModelConfig
from coterie.families.base import Family
from coterie.families.mapping import Slot

# Where the text model's tensors are, and where transformers 5 has them in memory in the first case:
# `outside`: language_model.model.layers..., language_model.lm_head; `inside`: model.language_model.layers...,
# lm_head.
Layout = Literal["outside", "inside"]
_OUTSIDE_IN_MEMORY = (
    ("model.language_model.", "language_model.model."),
    ("lm_head", "language_model.lm_head"),
)


def wrapper(
    model_type: str,
    architecture: str,
    texts: Sequence[Family],
    carried: Sequence[str],
    layout: Layout = "outside",
    parts: Sequence[str] = ("vision_config",),
    examples: str = "",
    memory_names: tuple[tuple[str, str], ...] | None = None,
    dense: str | None = None,
) -> Family:
    """The family of a model around one of the text families `texts`; the first where the config names none.

    `carried`: beginnings of the names of the other tensors (the directory must hold one at least). `parts`:
    keys of the config that must be there. `memory_names`: where transformers has the text model, if not where
    `layout` says. `dense`: the same model around a dense text model.
    """
    around = _Around(model_type, {text.model_type: text for text in texts}, layout, tuple(parts))
    if memory_names is None:
        memory_names = _OUTSIDE_IN_MEMORY if layout == "outside" else ()
    renamed = [pair for text in texts for pair in text.memory_names]
    return Family(
        model_type,
        architecture,
        around.read,
        around.write,
        around.slots,
        frozenset(("model_type", "text_config", "tie_word_embeddings", *parts)),
        (*carried, *(_around(prefix, layout) for text in texts for prefix in text.carried)),
        texts[0].fused,
        dense,
        upcycled=texts[0].upcycled,
        shared=texts[0].shared,
        unrouted=texts[0].unrouted,
        predicting=tuple(_around(prefix, layout) for text in texts for prefix in text.predicting),
        memory_names=memory_names + tuple(dict.fromkeys(renamed)),
        texts=tuple(around.texts),
        examples=examples,
    )


@dataclass(frozen=True)
class _Around:
    """The functions of a wrapper's family; see `wrapper`."""

    model_type: str
    texts: Mapping[str, Family]
    layout: Layout
    parts: tuple[str, ...]

    def read(self, data: Mapping[str, Any], where: str) -> ModelConfig:
        for part in ("text_config", *self.parts):
            if not isinstance(data.get(part), Mapping):
                raise ConfigError(
                    f"{where}: '{part}' is missing; a text-only model has model_type {_any(self.texts)}"
                )
        inner = text_settings(data, tuple(self.texts), where)
        config = self.texts[inner["model_type"]].read(inner, f"{where}: text_config")
        outer = {key: data[key] for key in data if key not in ("model_type", "architectures", "text_config")}
        kept = {"model_type": inner["model_type"]} | config.extra
        return config.model_copy(update={"family": self.model_type, "extra": outer | {"text_config": kept}})

    def write(self, config: ModelConfig) -> dict[str, Any]:
        text = self._text(config)
        written = text.extra | self.texts[text.family].write(text) | {"model_type": text.family}
        return {"text_config": written, "tie_word_embeddings": config.tie_embeddings}

    def slots(self, config: ModelConfig) -> list[Slot]:
        text = self._text(config)
        slots = self.texts[text.family].slots(text)
        return [replace(slot, disk=_around(slot.disk, self.layout)) for slot in slots]

    def _text(self, config: ModelConfig) -> ModelConfig:
        if any(not isinstance(config.extra.get(part), Mapping) for part in ("text_config", *self.parts)):
            raise ConfigError(
                f"a {self.model_type} checkpoint holds an image encoder, which this model lacks; "
                f"use {_any(self.texts)}"
            )
        text = text_alone(config)
        if text.family not in self.texts:
            raise ConfigError(
                f"the text model of a {self.model_type} checkpoint is {_any(self.texts)}, not {text.family}"
            )
        return text


def text_settings(data: Mapping[str, Any], texts: Sequence[str], where: str) -> dict[str, Any]:
    """The `text_config` of a wrapper's config as one of its text families reads it.

    As in transformers, `tie_word_embeddings` outside of it decides. Errors: `ConfigError` for a text model of
    another type.
    """
    inner = dict(data["text_config"])
    inner["model_type"] = inner.get("model_type") or texts[0]
    if inner["model_type"] not in texts:
        raise ConfigError(
            f"{where}: text_config: model_type '{str(inner['model_type'])[:60]}' is not supported here; "
            f"{data['model_type']} is read around {_any(texts)}"
        )
    if data.get("tie_word_embeddings") is not None:
        inner["tie_word_embeddings"] = data["tie_word_embeddings"]
    inner.pop("quantization_config", None)
    return inner


def text_alone(config: ModelConfig) -> ModelConfig:
    """The text model of a wrapper's config, under its own family and with the kept keys of `text_config`."""
    inner = dict(config.extra["text_config"])
    return config.model_copy(update={"family": inner.pop("model_type"), "extra": inner})


def with_text_of(config: ModelConfig, model_type: str, text_type: str) -> ModelConfig:
    """A wrapper's config under another wrapper's type, around a text model of `text_type`.

    Parts that are named after the wrapper are named after the other one.
    """
    extra = {key: value for key, value in config.extra.items() if key != "auto_map"}
    for key, part in extra.items():
        kind = part.get("model_type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind.startswith(config.family):
            extra[key] = dict(part) | {"model_type": model_type + kind.removeprefix(config.family)}
    extra["text_config"] = dict(config.extra["text_config"]) | {"model_type": text_type}
    return config.model_copy(update={"family": model_type, "extra": extra})


def _around(disk: str, layout: Layout) -> str:
    if layout == "outside":
        return f"language_model.{disk}"
    head, dot, rest = disk.partition(".")
    return f"model.language_model.{rest}" if head == "model" else f"{head}{dot}{rest}"


def _any(names: Mapping[str, Any] | Sequence[str]) -> str:
    return " or ".join(names)
