"""Each tiny model is written to a directory and to a GGUF file once for all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coterie.gguf.export import export_gguf
from tests.gguf.models import write

Exported = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Kind of `tests/gguf/models.py` -> its directory and its file in float32."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            directory = write(kind, folder / "m")
            export_gguf(directory, folder / "m.gguf", "f32")
            made[kind] = directory, folder / "m.gguf"
        return made[kind]

    return get
