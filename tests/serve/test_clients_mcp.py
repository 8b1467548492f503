"""The JavaScript SDK of MCP, in a folder of packages of its own, against `coterie mcp` (slow)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import coterie
from tests.agents.models import chat_model
from tests.clients import SCRIPTS, node_environment, run

pytestmark = pytest.mark.slow
SDK = "1.32.2"


def play(part: str, folder: Path) -> Any:
    """What one part of the script says, as JSON."""
    coterie.save(chat_model(positions=8192), folder / "model")
    found = node_environment(f"mcp-js-{SDK}", f"@modelcontextprotocol/sdk@{SDK}")
    shutil.copyfile(SCRIPTS / "mcp_js.mjs", found / "mcp_js.mjs")  # node looks for packages beside the script
    arguments = ["-m", "coterie.cli.main", "mcp", str(folder / "model")]
    variables = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    command = {"command": sys.executable, "args": arguments, "env": variables}
    return json.loads(run(Path("node"), [str(found / "mcp_js.mjs"), json.dumps(command), part], folder))


def test_reports_keep_a_long_call_alive(tmp_path: Path) -> None:
    said = play("progress", tmp_path)
    assert said["reply_tokens"] == 4000 and said["finish_reason"] == "length"
    # The SDK may drop the last report, which comes together with the result.
    assert said["seen"] == sorted(set(said["seen"])) and 3000 < said["seen"][-1] <= 4000


def test_a_cancelled_call_leaves_the_next_alone(tmp_path: Path) -> None:
    said = play("cancel", tmp_path)
    assert "enough" in said["error"] and said["seconds"] < 2


def test_errors_are_answers(tmp_path: Path) -> None:
    """Half of a surrogate pair, which this SDK sends and JSON in UTF-8 cannot hold, and a wrong argument."""
    said = play("errors", tmp_path)
    assert "-32700: Invalid JSON" in said["half"]
    assert said["isError"] and said["text"].startswith("chat: 'max_token' is not an argument")
