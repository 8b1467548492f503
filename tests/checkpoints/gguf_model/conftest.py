"""Each tiny model is written to a directory and to a GGUF file once for all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gguf import models

Exported = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def exported() -> Exported:
    """Kind of `tests/gguf/models.py` -> its directory and its file in float32."""
    return models.exported
