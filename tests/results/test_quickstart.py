"""results.json: written and read back, and every mistake is one line."""

from __future__ import annotations

import json

import pytest

from coterie.config import ConfigError
from coterie.results.quickstart import CurvePoint, QuickstartResults, equal_time
from tests.report.fake import fake_dict, fake_results


def test_round_trip(tmp_path):
    results = fake_results(seed=3)
    results.write(tmp_path / "results.json")
    assert QuickstartResults.read(tmp_path / "results.json") == results
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_estimate_lies_in_its_interval():
    data = fake_dict()
    data["difference"]["high"] = data["difference"]["value"] - 0.001
    with pytest.raises(ConfigError, match="outside its interval"):
        QuickstartResults.from_dict(data)


def test_shares_sum_to_one_and_have_the_shape():
    data = fake_dict()
    data["routing"]["share"][1][2][0] += 0.1
    with pytest.raises(ConfigError, match="sum to 1"):
        QuickstartResults.from_dict(data)
    data["routing"]["share"].pop()
    with pytest.raises(ConfigError, match="layers x slices x experts"):
        QuickstartResults.from_dict(data)


@pytest.mark.parametrize(("where", "message"), [("slices", "same slices"), ("probes", "same probes")])
def test_both_models_have_the_same_parts(where, message):
    data = fake_dict()
    part = data["moe"]["bits_per_byte"]["per_slice"] if where == "slices" else data["moe"]["probes"]
    part.popitem()
    with pytest.raises(ConfigError, match=message):
        QuickstartResults.from_dict(data)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        QuickstartResults.read(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        QuickstartResults.read(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="holds a list"):
        QuickstartResults.read(path)
    path.write_text(json.dumps(fake_dict() | {"sampels": []}))
    with pytest.raises(ConfigError, match="did you mean 'samples'"):
        QuickstartResults.read(path)


def test_equal_time_reads_the_curves_before_the_decay() -> None:
    def records(seconds_per_step: float) -> list[dict[str, object]]:
        return [
            {"kind": "train", "tokens": 10 * i, "lr": 1.0 if i <= 7 else 0.5, "seconds": seconds_per_step * i}
            for i in range(1, 11)
        ]

    def curve(seconds_per_step: float, start: float) -> list[CurvePoint]:
        return [
            CurvePoint(tokens=10 * i, seconds=seconds_per_step * i, flops=0, bits_per_byte=start - 0.1 * i)
            for i in range(1, 11)
        ]

    metrics = {"moe": records(2.0), "dense": records(1.0)}
    result = equal_time({"moe": curve(2.0, 3.0), "dense": curve(1.0, 3.2)}, metrics)
    # Dense decays after its 7th step, at 7 s; the mixture is then between its 3rd and 4th.
    assert result is not None
    assert result.to_dict() == pytest.approx({"seconds": 7.0, "moe": 3.0 - 0.35, "dense": 3.2 - 0.7})
