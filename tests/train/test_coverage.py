"""The coverage check: its finding outlives a resume. Whole runs that it stops: tests/recipes/test_tune.py."""

from __future__ import annotations

from coterie.train.coverage import Coverage


def test_coverage_is_kept_over_a_resume() -> None:
    coverage = Coverage({"attention"})
    coverage.load_state_dict({"found": [{"group": "attention", "layers": 4, "reached": 4}]})
    assert coverage.state_dict()["found"][0]["reached"] == 4
