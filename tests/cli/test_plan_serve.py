"""`coterie plan serve`: what fits in each form."""

import json
from pathlib import Path

import pytest

from tests.checkpoints.test_expert_files import written
from tests.cli.support import call, fails


def test_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(written(tmp_path, "qwen3_moe"))
    call("plan", "serve", model, "--memory", "1GB", "--no-speed", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["chosen"] == "none" and [plan["fits"] for plan in facts["plans"]] == ["memory"] * 3
    with pytest.raises(SystemExit, match="1"):
        call("plan", "serve", model, "--memory", "600MB", "--quant", "int4", "--no-speed")
    assert "int4     experts" in (said := capsys.readouterr().out) and "does not fit" in said
    assert "quant none, int8 or int4" in fails(capsys, "plan", "serve", model, "--quant", "int3")
