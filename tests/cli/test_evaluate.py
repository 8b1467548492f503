"""`coterie eval` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.infer.model import save
from tests.agents.models import PLAIN, chat_model
from tests.cli.support import call, fails


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("eval")
    save(chat_model(PLAIN), folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the model is."""
    monkeypatch.chdir(place)


def test_score_and_draw_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("eval", "tiny", "facts", "arithmetic", "max_tokens=8", "band=0", "limit=6", "-o", "out")
    call(*words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WARN", "tiny"] and lines[1].startswith("flag      arithmetic:D9: ")
    assert lines[-1] == "report    out/report.html" and lines[-2].startswith("average ")
    assert "6 items" in lines[-3]
    page = Path("out/report.html").read_text()
    Path("out/report.html").unlink()
    call("eval", "report", "out", "--json")
    assert json.loads(capsys.readouterr().out)["flags"] == ["arithmetic:D9"]
    assert Path("out/report.html").read_text() == page


def test_settings_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("eval.yaml").write_text("model: tiny\ntasks: [facts]\nlimit: 4\nband: 0\nout: filed\n")
    call("eval", "run", "--config", "eval.yaml", "limit=5", "--json")
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["tasks"][0]["n"] == 5


def test_items_are_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    call("eval", "items", "arithmetic", "-o", "items.jsonl", "n=9")
    said = capsys.readouterr().out
    assert said.startswith("9 items") and "sha256:" in said
    call("eval", "tiny", "items.jsonl", "max_tokens=4", "band=0", "-o", "fixed", "--json")
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["tasks"][0]["n"] == 9


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    call("eval", "list")
    assert "arithmetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny",), "at least one task"),
        (("tiny", "arithmetik"), "did you mean 'arithmetic'"),
        (("tiny", "facts", "limt=3"), "did you mean 'limit'"),
        (("nowhere", "facts"), "no such directory"),
        (("report", "tiny"), "give the directory that coterie eval wrote"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert says in fails(capsys, "eval", *words)
