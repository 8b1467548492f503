"""The settings of a tuning run, by their own names and by those of other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config.errors import ConfigError
from coterie.config.tune import REFUSED, TuneConfig


def test_names_of_other_tools_are_understood(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        "base_model: m\ndatasets: d.jsonl\nsequence_len: 512\nlora_r: 8\nlora_alpha: 16\n"
        "micro_batch_size: 2\ngradient_accumulation_steps: 4\nlearning_rate: 2e-4\nmax_steps: 7\n"
        "output_dir: o\nload_in_4bit: true\n"
    )
    config = TuneConfig.from_yaml(tmp_path / "c.yml", ["seed=3"])
    assert (config.model, config.data, config.row_length, config.rank, config.alpha) == (
        "m",
        ["d.jsonl"],
        512,
        8,
        16,
    )
    assert (config.batch_rows, config.accumulate, config.optimiser.lr, config.steps, config.out) == (
        2,
        4,
        2e-4,
        7,
        "o",
    )
    fields = {"optimiser": {"name": "muon", "lr": 1e-3}, "warmup": 0.2, "schedule": {"kind": "wsd"}}
    nested = TuneConfig.from_dict({"model": "m", "data": "d", **fields})
    assert (nested.optimiser.name, nested.optimiser.lr, nested.optimiser.betas) == ("muon", 1e-3, (0.9, 0.99))
    assert (nested.schedule.kind, nested.schedule.warmup_fraction) == ("wsd", 0.2)
    assert TuneConfig.from_dict(nested.to_dict()) == nested
    assert config.method == "qlora" and config.seed == 3 and config.adapter().quant == "int4"


@pytest.mark.parametrize("name", REFUSED)
def test_names_of_other_tools_that_cannot_be_taken_say_what_to_write(name: str) -> None:
    assert name not in {*TuneConfig.model_fields, *TuneConfig.other_names}
    with pytest.raises(ConfigError, match=f"^c.yml: unknown key '{name}'; ") as refused:
        TuneConfig.from_dict({"model": "m", "data": "d", name: True}, "c.yml")
    assert str(refused.value).endswith(REFUSED[name])
