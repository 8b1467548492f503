"""A folder of text and a finished training run on it, made once for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import call, write_config


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little folder of distinct text files."""
    folder = tmp_path_factory.mktemp("text")
    words = "the a one some cat dog tree house runs sees finds makes red green small large of in".split()
    words += "under and then".split()
    for index in range(30):
        lines = [
            " ".join(words[(index * 7 + i * i + j * (i + 3)) % len(words)] for j in range(12))
            for i in range(20)
        ]
        (folder / f"{index}.txt").write_text(f"Text number {index}.\n" + "\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def run_dir(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished training run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    call("train", str(write_config(out.parent, text, out)))
    return out
