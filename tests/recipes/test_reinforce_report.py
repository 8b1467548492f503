"""Pages from the files of a run: the command, names of several runs, damaged files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from coterie.cli.main import main
from coterie.config.errors import ConfigError, DataError
from coterie.recipes.reinforce_report import compare_runs, read_run
from tests.report.reinforced import kept, run


def written(place: Path, name: str, ended: bool = True) -> Path:
    """The files of a made-up run."""
    made, out = run(ended=ended), place / name
    (out / "rollouts").mkdir(parents=True)
    (out / "start.json").write_text(json.dumps(made.start.to_dict()))
    if made.record is not None:
        (out / "reinforce.json").write_text(json.dumps(made.record.to_dict()))
    (out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made.metrics))
    for step in (1, 2):
        with gzip.open(out / "rollouts" / f"step-{step:06d}.jsonl.gz", "wt") as file:
            file.write(json.dumps(kept(step, 0, True)) + "\n")
    return out


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of `coterie report`."""
    monkeypatch.setattr("sys.argv", ["coterie", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_draws_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = written(tmp_path, "one")
    assert called(monkeypatch, str(out)) == 0
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    assert "2 replies of 2 steps were kept" in (out / "report.html").read_text()
    monkeypatch.chdir(out)  # a run is named by its directory, however that is given
    assert read_run(".").name == "one"


def test_the_command_compares_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = written(tmp_path / "x", "run"), written(tmp_path / "y", "run", ended=False)
    page = tmp_path / "both.html"
    assert called(monkeypatch, str(one), str(other), "-o", str(page)) == 0
    said = capsys.readouterr().out
    assert f"Not ended yet: {other}." in said and f"report: {page}" in said
    assert str(one) in page.read_text()
    assert called(monkeypatch, str(tmp_path)) == 2
    assert "holds neither the results of a quickstart nor a reinforcement run" in capsys.readouterr().err
    assert called(monkeypatch, str(one), str(other)) == 2
    assert "give --out PAGE.html" in capsys.readouterr().err


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no reinforcement run that has begun"):
        read_run(tmp_path)
    out = written(tmp_path, "one")
    with pytest.raises(ConfigError, match="is given twice"):
        compare_runs([str(out), str(out)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    (out / "rollouts" / "step-000002.jsonl.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(DataError, match=r"step-000002.jsonl.gz: is damaged .*remove it to draw the others"):
        read_run(out)
