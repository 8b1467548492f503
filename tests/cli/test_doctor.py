"""`coterie doctor` on this machine; grading a server is tested with the checks in tests/agents."""

from __future__ import annotations

import json

import pytest

from tests.cli.support import call


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    call("doctor", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["threads"] >= 1 and facts["memory"].endswith(" GB") and facts["problems"] == []
    assert facts["native kernels"] == "ready" and facts["products"]["many_rows"]
    call("doctor")
    assert "no problems found" in capsys.readouterr().out
