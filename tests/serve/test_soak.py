"""A minute of mixed load; `bench/soak.py` runs for longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "bench" / "soak.py"


@pytest.mark.slow
def test_a_minute_of_mixed_load_leaves_nothing_behind(tmp_path):
    out = tmp_path / "soak.json"
    subprocess.run(
        [sys.executable, SOAK, "--minutes", "1", "--out", out], capture_output=True, timeout=300, check=False
    )
    record = json.loads(out.read_text())
    assert record["failures"] == [] and record["idle_at_the_end"]
    assert len(record["requests"]) == 12 and min(record["requests"].values()) > 0
    assert record["descriptors"]["growth"] < 0.2 and record["threads"]["growth"] < 0.1
    # 1 % is the promise; twelve samples of a minute scatter by as much.
    assert record["memory_bytes"]["growth"] < 0.02
