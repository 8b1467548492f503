"""Run the command line in this process, and a small configuration to run it on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.cli.main import main

MODEL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
}


def write_config(folder: Path, text: Path, out: Path, **changes: Any) -> Path:
    settings = {
        "model": MODEL,
        "data": {"sources": [str(text)], "vocab_size": 300, "row_length": 64},
        "steps": 6,
        "batch_rows": 4,
        "save_every": 3,
        "out": str(out),
        "threads": 1,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def call(*arguments: str) -> None:
    """Run the command line in this process; raises SystemExit on failure."""
    before = sys.argv
    sys.argv = ["coterie", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    finally:
        sys.argv = before


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command prints when it fails with a non-zero status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code not in (0, None)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("coterie: ")]
    assert len(lines) == 1, captured.err
    return lines[0]
