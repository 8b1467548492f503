"""The program itself: version, help in sections, completion, and one line for a wrong option."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coterie
from coterie.cli.main import VERBS, app
from tests.cli.support import call, fails


def help_of(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="coterie", env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    call("--version")
    assert capsys.readouterr().out == f"coterie {coterie.__version__}\n"


def test_quiet_shows_no_progress(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("data", "card", str(text))
    assert capsys.readouterr().err
    call("--quiet", "data", "card", str(text))
    found = capsys.readouterr()
    assert found.out and not found.err


def test_the_overview_names_every_verb_in_its_section() -> None:
    shown = help_of()
    for name, verb in VERBS.items():
        assert f"\n  {name} " in shown and f"\n{verb.section}:\n" in shown
    assert shown.index("Train and tune:") > shown.index("Options:")


def test_long_helps_have_sections_and_end_with_general_options() -> None:
    shown = help_of("tune")
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Arguments:",
        "What is trained:",
        "How it is trained:",
        "What is measured:",
        "Options:",
    ]
    assert shown.index("--method") < shown.index("--epochs") < shown.index("--eval") < shown.index("--json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "http://x", "--clients", "0"], "'--clients'"),
        (["tune"], "Missing argument 'model'; see coterie tune --help"),
        (["tuen"], "Did you mean 'tune'?"),
        (["patch", "aply"], "Did you mean 'apply'?"),
        (["inspect", "a", "--jason"], "--jason"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, *arguments)
    assert words in line and "--help" in line


def test_a_group_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("patch")
    assert stop.value.code == 2 and "Usage: coterie patch" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "offered"), [("coterie tu", "tune"), ("coterie patch re", "remove")])
def test_completion(typed: str, offered: str) -> None:
    """What bash's completion asks the program."""
    environment = os.environ | {
        "_COTERIE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = [sys.executable, "-m", "coterie.cli.main"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert offered in result.stdout.split(), result.stderr


def test_no_verb_is_imported_for_the_overview() -> None:
    script = "import sys; sys.argv = ['coterie', '--help']\nfrom coterie.cli.main import main\n"
    script += "try: main()\nexcept SystemExit: pass\n"
    script += "print(sorted(name for name in sys.modules if name.startswith('coterie.')), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (
        result.stderr.strip()
        == "['coterie.cli', 'coterie.cli.help', 'coterie.cli.main', 'coterie.cli.messages']"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "missing.yaml"], "missing.yaml: cannot be read"),
        (["chat", "missing"], "missing: no such directory"),
        (["inspect", "/no/such"], "/no/such: no such directory"),
        (["report", "missing"], "missing: holds neither the results of a quickstart nor a reinforcement run"),
        (["plan", "tune", "llama-4-scot"], "did you mean 'llama-4-scout'?"),
        (["adapter", "inspect", "/no/such"], "/no/such: no such directory"),
        (["tune", "m", "x", "lerning_rate=1"], "unknown key 'lerning_rate' (did you mean 'learning_rate'?)"),
        (
            ["tune", "m", "x", "--train", "atention=lora"],
            "unknown group 'atention' (did you mean 'attention'?)",
        ),
        (["tune", "m", "x", "--method", "esft"], "coterie: tune: method esft trains chosen experts;"),
        (["data", "card", "/no/such"], "/no/such: no such file or directory"),
        (["quickstart", "--data", "/no/such", "--out", "OUT"], "/no/such: no such file or directory"),
    ],
)
def test_missing_paths(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    assert message in fails(capsys, *arguments)
