"""`coterie models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints.test_pulled import put
from tests.cli.support import call, fails
from tests.hub.fake import FakeHub
from tests.hub.fixtures import cache, hub

__all__ = ["cache", "hub"]


def test_the_list(hub: FakeHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    call("models")
    assert f"no models in the cache {cache}; fetch one with coterie pull" in capsys.readouterr().out
    commit = put(hub, tmp_path)
    call("pull", "some/model")
    (cache / "models--c--d").mkdir()
    capsys.readouterr()
    call("models")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"2 models in the cache {cache}; memory ")
    assert lines[1].split() == "MODEL FAMILY PARAMETERS STORED AS SIZE LOAD TUNE SERVE".split()
    assert lines[2].startswith("c/d         -") and lines[2].endswith("no    no    no")
    assert lines[3] == "    holds no revision"
    assert lines[4].startswith("some/model  qwen3_moe") and lines[4].endswith("yes   no    no")
    assert lines[5] == "    tune no, serve no: has no tokenizer.json"
    call("models", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in facts["models"]] == ["c/d", "some/model"]
    assert facts["models"][1]["commit"] == commit and facts["memory_bytes"] > 0


def test_directories_and_removal(
    hub: FakeHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    put(hub, tmp_path)
    call("pull", "some/model")
    call("models", str(tmp_path / "source"))
    assert str(tmp_path / "source") in capsys.readouterr().out
    call("models", "--remove", "some/model")
    assert "removed some/model: " in capsys.readouterr().out
    assert "some/model: is not in the cache" in fails(capsys, "models", "--remove", "some/model")
    assert "write owner/name or owner/name@revision" in fails(capsys, "models", "--remove", "x")
    assert "no such directory" in fails(capsys, "models", str(tmp_path / "nowhere"))
