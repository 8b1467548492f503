"""What the command line shows of the library's log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from coterie.cli.messages import show_messages

log = logging.getLogger("coterie")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


def test_messages_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=False)
    show_messages()
    log.info("reading")
    logging.getLogger("coterie.serve").warning("slow")
    assert capsys.readouterr() == ("", "reading\nWARNING: slow\n")


def test_quiet_keeps_warnings_and_outlives_a_change_of_the_clock(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=True)
    show_messages("run")
    log.info("reading")
    log.warning("slow")
    assert re.fullmatch(r"\[ +0 s\] WARNING: slow\n", capsys.readouterr().err)


def test_the_time_of_day_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages("wall", quiet=False)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    shown = capsys.readouterr().err
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR: failed\n  \| Traceback", shown)
    assert shown.endswith("  | ValueError: broken\n")


def test_a_message_is_one_line_of_printable_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=False)
    log.info("%s", "a\nb\x1b[2J\rc\td\x85\u2028é")
    assert capsys.readouterr().err == "a\\nb\\x1b[2J\\rc\td\\x85\\u2028é\n"
