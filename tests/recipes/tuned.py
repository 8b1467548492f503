"""Tiny models with a tokenizer, and conversations, for the tests of tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.adapters.files import is_adapter
from coterie.checkpoints.directory import save_model
from coterie.cli.main import main
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.recipes.tune import TuneResult, tune
from coterie.results.tuning import TuningRecord
from coterie.text.tokenizer import Tokenizer
from tests.families.hf import _BASE, CONFIGS, randomise

ANSWERS = {"red": "stop", "green": "go", "amber": "wait", "blue": "swim", "white": "ski", "black": "sleep"}
SMALL: dict[str, Any] = {"row_length": 128, "batch_rows": 2, "retention": "none", "eval": 0.0}


def conversations(path: Path, copies: int = 3) -> Path:
    """Short conversations: what to do at a colour."""
    lines = []
    for copy in range(copies):
        for colour, answer in ANSWERS.items():
            asked = {"role": "user", "content": f"{'At ' * (copy % 2)}{colour}?"}
            lines.append({"messages": [asked, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def base(directory: Path, family: str, calm: bool = False) -> Path:
    """A checkpoint of one family, every parameter random.

    `calm`: with the fresh weights of a model before its training.
    """
    path = directory / family
    if not path.exists():
        text = " ".join([*ANSWERS, *ANSWERS.values()])
        tokenizer = Tokenizer.train([text * 5], 300)
        settings = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 256}
        model = Transformer(config_from_hf(_BASE | CONFIGS[family] | settings))
        if calm:
            model.initialise(0)
        else:
            randomise(model)
            with torch.no_grad():
                for _, router in model.routers():
                    if router.select_bias is not None:
                        router.select_bias.normal_(0, 0.1)
        save_model(path, model, tokenizer)
    return path


def tuned(model: Path, data: Path | str, out: Path, **settings: Any) -> TuneResult:
    """`tune` with small settings; the rank only where factors are trained.

    Its page lacks the figure, which takes longer than three steps; the pages of `command` have it.
    """
    train = settings.get("train")
    factors = settings.get("method", "lora") in ("lora", "qlora", "dora")
    if factors and (train is None or "lora" in train.values()) and not is_adapter(model):
        settings = {"rank": 4} | settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coterie.report.tuning_page.loss_curve", lambda losses: "")
        return tune(str(model), str(data), out=str(out), **(SMALL | {"steps": 3} | settings))


def report_of(result: TuneResult) -> TuningRecord:
    """The report of a run that came to its end."""
    assert result.report is not None
    return result.report


def command(monkeypatch: Any, capsys: Any, *words: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    monkeypatch.setattr("sys.argv", ["coterie", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    found = capsys.readouterr()
    return code, found.out, found.err


def tensors(directory: Path) -> Mapping[str, torch.Tensor]:
    """All tensors of an adapter's directory."""
    from safetensors.torch import load_file

    return load_file(directory / "adapter_model.safetensors")
