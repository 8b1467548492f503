"""Which settings have an effect, given the others: a setting that something else makes void is an error.

A table of `Effect`s says for a setting what it needs. Settings that are not in the table always have an
effect. A run's stated settings (`config.yaml`, reports) hold the effective ones only, so that nothing in them
is untrue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Facts:
    """What a run knows besides its settings; None: not known yet.

    `moe`: whether the model is a mixture of experts. `objective`: the one that is trained. `tools`: whether
    the task has tools.
    """

    moe: bool | None = None
    objective: str | None = None
    tools: bool | None = None


@dataclass(frozen=True)
class Effect:
    """What a setting needs.

    `needs(settings, facts)`: whether it has an effect. It returns True as long as facts that decide are not
    known. `words`: what it needs, for a message. `default_passes`: giving the default counts as giving
    nothing, so that the stated settings of one run can be another's with a single one changed.
    """

    needs: Callable[[Any, Facts], bool]
    words: str
    default_passes: bool = False


Effects = Mapping[str, Effect]


def void_settings(settings: BaseModel, effects: Effects, facts: Facts = Facts()) -> dict[str, str]:
    """Dotted name of each setting without effect -> what it lacks, whether it was given or not."""
    return {name: effect.words for name, effect in effects.items() if not effect.needs(settings, facts)}


def first_void(settings: BaseModel, effects: Effects, facts: Facts = Facts()) -> str | None:
    """A message about the first setting that was given and has no effect; None where each has one."""
    given = dict(_given(settings))
    for name, words in void_settings(settings, effects, facts).items():
        if name in given and not (effects[name].default_passes and given[name]):
            return (
                f"'{name}' needs {words}, so it has no effect here; leave it out, or change the other setting"
            )
    return None


def effective(settings: BaseModel, effects: Effects, facts: Facts = Facts()) -> dict[str, Any]:
    """The settings as plain JSON types, without open choices (None) and settings that have no effect."""
    return _stated(settings, settings.model_dump(mode="json"), void_settings(settings, effects, facts), ())


def _given(settings: BaseModel, before: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """Dotted name of each setting that was given, and whether its value is the default.

    None is not given: it leaves a choice open.
    """
    for name, field in type(settings).model_fields.items():
        if name not in settings.model_fields_set:
            continue
        value = getattr(settings, name)
        if value is not None and value != {}:
            yield ".".join((*before, name)), value == field.default
        if isinstance(value, BaseModel):
            yield from _given(value, (*before, name))


def _stated(
    settings: BaseModel, plain: Mapping[str, Any], void: Collection[str], before: tuple[str, ...]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value, place = getattr(settings, name), (*before, name)
        # None that is not the default says something: `clip_norm: null` turns clipping off.
        if ".".join(place) in void or (value is None and field.default is None):
            continue
        result[name] = _stated_value(value, plain[name], void, place)
    return result


def _stated_value(value: Any, plain: Any, void: Collection[str], place: tuple[str, ...]) -> Any:
    if isinstance(value, list | tuple):
        pairs = zip(value, plain, strict=True)
        return [_stated_value(item, shown, void, place) for item, shown in pairs]
    return _stated(value, plain, void, place) if isinstance(value, BaseModel) else plain
