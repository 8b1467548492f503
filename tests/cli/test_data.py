"""`coterie data card` and `coterie data lint`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import call


def test_data_commands(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("data", "card", str(text), "--json")
    card = json.loads(capsys.readouterr().out)
    assert card["read_documents"] == 30
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(SystemExit) as stop:
        call("data", "lint", str(bad))
    assert stop.value.code == 1
    assert "bad.jsonl:2" in capsys.readouterr().out
