"""Releases by their commands: refused with every reason, written, checked by a receiver, exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coterie.config import ConfigError, CoterieError
from coterie.evidence.claims import CLAIMS
from coterie.release.publish import PublishRequest, check_target, publish, sign_report
from coterie.results.release import ReplayedItems
from tests.cli.support import call, fails
from tests.release.released import change_tensor, commit_again, key, write_model, write_report
from tests.release.test_gate import EXPERT


@pytest.fixture(scope="module", params=["moe", "dense"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a report that nobody has signed, and a key."""
    folder = tmp_path_factory.mktemp(request.param)
    write_report(write_model(folder / "model", dense=request.param == "dense"), folder / "report")
    (folder / "report" / CLAIMS).unlink()
    key().write(folder / "me.key")
    return folder


def ends(status: int, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of a command that ends with `status`."""
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit) as stop:
            call(*arguments)
        assert stop.value.code == status
    else:
        call(*arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out.splitlines()


def test_a_release_from_the_report_to_its_receiver(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    Path("about.md").write_text("It adds, and scores 91 % on MMLU.\n")
    order = ["release", "model", "--report", "report", "--key", "me.key", "--name", "owner/tiny"]
    # The records were made by hand, so none of them is run again.
    order += ["--m", "0"]
    refused = ends(1, capsys, *order, "--about", "about.md", "-o", "out")
    assert refused[0] == "REFUSED   owner/tiny: 2 reasons" and len(refused) == 3
    assert "signature" in refused[1] and "about.md line 1 says '91 %' of MMLU" in refused[2]
    assert not Path("out").exists()
    assert ends(0, capsys, "release", "sign", "report", "--key", "me.key")[0].startswith("signed by sha256:")
    Path("about.md").write_text("It adds.\n")
    assert ends(0, capsys, *order)[0] == "fine      owner/tiny may be released; -o writes it"
    written = ends(0, capsys, *order, "--about", "about.md", "-o", "out")
    assert (
        written[0] == "released  out"
        and written[-1] == "check     coterie release check out --public me.key.pub"
    )
    checked = ends(0, capsys, *written[-1].split()[2:])
    assert checked[0] == "fine      out" and checked[1].startswith("release   owner/tiny, ")
    found = json.loads(ends(0, capsys, "release", "check", "out", "--public", "me.key.pub", "--json")[0])
    assert found["valid"] is True and found["release"]["name"] == "owner/tiny"
    assert any(
        line.endswith(".json")
        for line in ends(0, capsys, "release", "export", "out", "--to", "eee", "-o", "eee")
    )


def test_one_expert_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The swapped expert, from both sides: the publisher cannot release it, the receiver sees which it is."""
    write_report(write_model(tmp_path / "model"), tmp_path / "report")
    private = str(tmp_path / "me.key")
    key().write(private)
    order = ["release", str(tmp_path / "model"), "--report", str(tmp_path / "report"), "--key", private]
    order += ["--m", "0"]
    ends(0, capsys, *order, "-o", str(tmp_path / "out"))
    for name in ("model", "out"):
        change_tensor(tmp_path / name, EXPERT, lambda tensor: tensor.flip(0))
    commit_again(tmp_path / "model")
    refused = ends(1, capsys, *order, "-o", str(tmp_path / "again"))
    assert (
        any("the report is of the weights" in line for line in refused) and not (tmp_path / "again").exists()
    )
    seen = ends(1, capsys, "release", "check", str(tmp_path / "out"), "--public", f"{private}.pub")
    assert any("(layer 1: expert 3)" in line for line in seen)
    assert seen[0].startswith("REFUSED") and any("model.safetensors was changed" in line for line in seen)


def test_a_replay_that_differs_refuses(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "work")
    sign_report(tmp_path / "work" / "report", tmp_path / "work" / "me.key")
    asked = PublishRequest(
        model=str(tmp_path / "work" / "model"),
        report=str(tmp_path / "work" / "report"),
        key=str(tmp_path / "work" / "me.key"),
        out=str(tmp_path / "out"),
    )
    given = []

    def replay(report: Path, model: str, items: int) -> tuple[ReplayedItems, list[str]]:
        given.append(items)
        return ReplayedItems(items=2 * items, differ=1), ["lists: item 3 is answered otherwise"]

    refused = publish(asked, replay)
    assert [str(one) for one in refused.refusals] == ["replay: lists: item 3 is answered otherwise"]
    assert given == [60] and not (tmp_path / "out").exists()
    done = publish(asked, lambda report, model, items: (ReplayedItems(items=items, differ=0), []))
    assert done.refusals == []
    checked = check_target(str(tmp_path / "out"), [tmp_path / "work" / "me.key.pub"])
    assert "the publisher ran 60 items again from these files; 0 differed" in checked.notes


def test_the_command_runs_items_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records that somebody typed are signed and whole, and the replay finds that no model made them."""
    shutil.copytree(made, tmp_path / "work")
    model, report, private = (str(tmp_path / "work" / name) for name in ("model", "report", "me.key"))
    ends(0, capsys, "release", "sign", report, "--key", private)
    order = ["release", model, "--report", report, "--key", private, "-o", str(tmp_path / "out")]
    refused = ends(1, capsys, *order)
    assert [line for line in refused if line.startswith("  replay ")]
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, report, private = str(made / "model"), str(made / "report"), str(made / "me.key")
    order = ["release", model, "--report", report]
    assert "give the file of a key" in fails(capsys, *order, "--key", str(tmp_path / "none"))
    assert "give the directory that coterie eval wrote" in fails(
        capsys, "release", model, "--report", model, "--key", private
    )
    assert "needs a reason" in fails(capsys, *order, "--key", private, "--waive", "lists:D9= ")
    assert "--public" in fails(capsys, "release", "check", model)
    assert "report.json" in fails(capsys, "release", "check", model, "--public", f"{private}.pub")
    with pytest.raises(ConfigError, match="an address proves nothing"):
        check_target("http://127.0.0.1:9", [])


def test_only_whole_reports_are_signed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "report", tmp_path / "report")
    (tmp_path / "report" / "samples" / "lists.jsonl").write_text("")
    with pytest.raises(CoterieError, match=r"was not signed; lists: .* holds 0 records"):
        sign_report(tmp_path / "report", made / "me.key")


def test_a_card_that_somebody_typed_is_read_and_replaced(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "work")
    sign_report(tmp_path / "work" / "report", tmp_path / "work" / "me.key")
    (tmp_path / "work" / "model" / "README.md").write_text("# Mine\n\nGSM8K: 77.7 %\n")
    places = {name: str(tmp_path / "work" / name) for name in ("model", "report")}
    asked = PublishRequest(**places, key=str(tmp_path / "work" / "me.key"))
    [found] = publish(asked).refusals
    assert found.rule == "number" and found.says.startswith("README.md line 3 says '77.7 %'")
    (tmp_path / "work" / "model" / "README.md").write_text("# Mine\n")
    assert "is replaced by the card" in publish(asked).notes[0]
