"""What a table of fields is made of. See `fields.sift` for what each kind means to a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Extra:
    """The fields of one object in addition to those that are honoured. Every text is a reason, for people.

    `named`: without effect on the reply; a name may hold `*`. `repeats`: copies of the named fields of the
    object: without effect next to one of them. `same`: other servers' names for a field of ours: accepted
    next to ours with the same value. `neutral`: accepted with one of these values, which ask for what happens
    anyway. `refused`: what the field would need. `is_open`: the object describes something that has been
    said or made, so that fields of any other name are accepted and named.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    neutral: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    is_open: bool = False

    def label(self, name: str) -> str | None:
        """The reason why a field of this name has no effect, or None."""
        if name in self.named:
            return self.named[name]
        return next(
            (why for form, why in self.named.items() if "*" in form and fnmatchcase(name, form)), None
        )

    def __contains__(self, name: object) -> bool:
        """Whether the table says something about fields of this name."""
        kinds = (self.repeats, self.same, self.neutral, self.refused)
        return isinstance(name, str) and (self.label(name) is not None or any(name in kind for kind in kinds))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(field, what happens to it, why), for the documents."""
        for name, why in self.named.items():
            yield name, "named", why
        for name, others in self.repeats.items():
            yield name, f"named next to {_either(others)}, else refused", "it repeats that field"
        for name, other in self.same.items():
            yield name, f"named when equal to `{other}`, else refused", f"another name for `{other}`"
        for name, (values, why) in self.neutral.items():
            yield name, f"accepted as {_either(values)}, else refused", why
        for name, why in self.refused.items():
            yield name, "refused", why

    def __or__(self, other: Extra) -> Extra:
        """Both tables; where both name a field, the other's entry stands."""
        return Extra(
            {**self.named, **other.named},
            {**self.repeats, **other.repeats},
            {**self.same, **other.same},
            {**self.neutral, **other.neutral},
            {**self.refused, **other.refused},
            self.is_open or other.is_open,
        )


def because(reason: str, *names: str) -> dict[str, str]:
    """One reason for several fields."""
    return dict.fromkeys(names, reason)


def _either(values: tuple[Any, ...]) -> str:
    shown = [f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in values]
    return " or ".join(shown)
