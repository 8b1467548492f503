"""The page of a tuning run: every part of the record is shown, and parts that are missing are left out."""

from coterie.report.tuning_page import render_tuning, tuning_lines
from coterie.results.tuning import TuningRecord

INTERVAL = {"value": -0.4, "low": -0.5, "high": -0.3, "documents": 9}
LEAST = {
    "config": {},
    "data": "12 examples <b>",
    "skipped": ["a.jsonl:3: has no text"],
    "plan": [{"group": "experts", "parameters": 10_000, "trainable": 128, "treatment": "lora", "rank": 4}],
    "coverage": [{"group": "experts", "layers": 6, "reached": 6, "experts": 8, "experts_reached": 7}],
    "ended": "finished",
    "warnings": ["load is uneven"],
}
PER_SLICE = {"per_slice": {"a": INTERVAL, "b": INTERVAL}}
FULL = LEAST | {
    "held_out": {
        "before": 3.0,
        "after": 2.6,
        "change": INTERVAL | {"per_slice": {"a": INTERVAL, "b": INTERVAL}},
    },
    "preferred": 0.75,
    "proof": {"gravity": 0.999, "moved_mean": 0.1, "reloaded_mean": 1e-7, "reloaded_max": 2e-6},
    "path": "runs/x/adapter",
}


def test_findings_are_sentences():
    assert tuning_lines(TuningRecord.from_dict(FULL)) == [
        "bits per token of held-out examples: 3.000 -> 2.600 (-0.400, 95% -0.500 to -0.300: better)",
        "held-out pairs in which the better side gained more than the other: 75%",
        "trained experts: 6/6 tensors got gradients, 7/8 experts",
        "warning: load is uneven",
        "reloaded from disk: gravity 0.999 (1: the tuned model; 0: the base), "
        "largest difference 2.0e-06 nats",
        "written: runs/x/adapter",
    ]


def test_the_page_shows_the_record():
    page = render_tuning(TuningRecord.from_dict(FULL), "Tuning <x>", [(1, 2.0), (2, 1.5)])
    assert "Tuning &lt;x&gt;" in page and "12 examples &lt;b&gt;" in page and page.count("<svg") == 1
    for part in ("a.jsonl:3: has no text", "10,000", "7 of 8 experts", "-0.400"):
        assert part in page


def test_what_was_not_measured_is_left_out():
    record = TuningRecord.from_dict(LEAST | {"failed": "no gradient"})
    page = render_tuning(record, "t", [])
    assert "<svg" not in page and "Gains and losses" not in page
    assert "no result: no gradient" in page
    assert record.model_dump(mode="json", exclude_unset=True).keys() == (LEAST | {"failed": ""}).keys()
