"""The table of docs/exit-codes.md: every class of error ends the program with its code and one line."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from coterie.cli import main as cli
from coterie.config import errors

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
TABLE = {name: int(code) for name, code in re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)}


def ended(monkeypatch: pytest.MonkeyPatch, problem: BaseException | Callable[[], None]) -> int:
    """The exit code of a command that ends with an error."""

    def command(**_: object) -> int:
        if isinstance(problem, BaseException):
            raise problem
        problem()
        return 0

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_page_lists_every_class() -> None:
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name: value.exit_code for name, value in classes.items()} == TABLE


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_class_ends_with_its_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, getattr(errors, name)("a: is\nwrong")) == TABLE[name]
    assert capsys.readouterr().err == "coterie: a: is wrong\n"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/no/such"), "/no/such: No such file"),
        (OSError(28, "No space left on device"), "system: No space left"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid start byte"), "byte 1 is 0xff"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "surrogate"),
    ],
)
def test_what_the_system_or_the_input_did_is_one_line(
    problem: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, problem) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("fault", [KeyError("x"), TypeError("x"), struct.error("x"), AssertionError()])
def test_a_fault_of_the_program_keeps_its_traceback(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "app", lambda **_: (_ for _ in ()).throw(fault))
    with pytest.raises(type(fault)):
        cli.main()


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of the command line turns KeyboardInterrupt into Abort, its cause."""
    stopped = typer.Abort()
    stopped.__cause__ = KeyboardInterrupt()
    assert ended(monkeypatch, stopped) == 130
    assert ended(monkeypatch, typer.Abort()) == 1
