"""What a method is given, the stored tensors and their settings, and where it puts what it found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coterie.checkpoints.quantised.encoded import Decoding, EncodedTensor, Shape
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.tensor_reader import Entries, FileBytes, Place
from coterie.config import CheckpointError


@dataclass
class Finder:
    """The stored tensors `entries`, and what a method makes of them.

    `tensors`: what they encode, by the name that the file would give a plain tensor. `used`: stored tensors
    that are not tensors of the model: the numbers of one (with its name), other parts of one, or scales of
    activations, which stay unquantised here.
    """

    entries: Entries
    files: FileBytes
    settings: QuantSettings
    tensors: dict[str, EncodedTensor] = field(default_factory=dict)
    used: dict[str, str | None] = field(default_factory=dict)

    def ending(self, *endings: str) -> Iterator[tuple[str, str]]:
        """(name, name without the ending) of the stored tensors with one of `endings`."""
        for name in list(self.entries):
            for ending in endings:
                if name.endswith(ending) and name not in self.used:
                    yield name, name.removesuffix(ending)

    def place(self, name: str, part: str) -> Place:
        """Where the part of a quantised tensor is. Errors: `CheckpointError` where it is missing."""
        if part not in self.entries:
            raise CheckpointError(f"{self._file(name)}: '{name}' is quantised and '{part}' is missing")
        return self.entries[part]

    def checked(self, name: str, part: str, types: tuple[str, ...], *shapes: Shape) -> str:
        """`part`, which has one of `types` and one of `shapes`. Errors: `CheckpointError` where not."""
        file, entry = self.place(name, part)
        if entry.dtype not in types:
            raise CheckpointError(f"{file}: '{part}' is stored as {entry.dtype}, not {' or '.join(types)}")
        if shapes and entry.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise CheckpointError(f"{file}: '{part}' has shape {entry.shape}; '{name}' needs {wanted}")
        return part

    def weights(self, *types: str) -> Iterator[tuple[str, str]]:
        """(name, name without the ending) of the stored `.weight` of one of `types`."""
        for name, stem in self.ending(".weight"):
            if self.entries[name][1].dtype in types:
                yield name, stem

    def matrix(self, stored: str) -> tuple[int, int]:
        """The two sizes of a stored tensor. Errors: `CheckpointError` for one with fewer or more."""
        file, entry = self.entries[stored]
        if len(entry.shape) != 2 or 0 in entry.shape:
            raise CheckpointError(f"{file}: '{stored}' of shape {entry.shape} is not a matrix")
        return entry.shape[0], entry.shape[1]

    def add(self, name: str, shape: Shape, form: Decoding, **parts: str) -> None:
        """A tensor that `parts` (role = stored name, the numbers first) encode."""
        if name in self.tensors or (name in self.entries and name not in parts.values()):
            raise CheckpointError(f"{self._file(name)}: '{name}' is there twice, plain and quantised")
        places = {role: self.entries[part] for role, part in parts.items()}
        self.tensors[name] = EncodedTensor(name, places, shape, form)
        self.used |= dict.fromkeys(parts.values()) | {next(iter(parts.values())): name}

    def drop(self, *endings: str) -> None:
        """Leave out what describes activations or the cache of keys and values."""
        self.used |= dict.fromkeys(name for name, _ in self.ending(*endings))

    def _file(self, name: str) -> Path:
        stem = name.removesuffix(".weight")
        found = (file for stored, (file, _) in self.entries.items() if stored.startswith(stem))
        return next(found, next(iter(self.entries.values()))[0])
