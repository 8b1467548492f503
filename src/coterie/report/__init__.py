"""Layer 2: a comparison drawn from its records, as a self-contained page or as text. Knows nothing of
models.
"""

from coterie.report.page import write_report
from coterie.report.schema import (
    CurvePoint,
    DataSummary,
    EqualTime,
    Interval,
    ModelResults,
    QuickstartResults,
    RoutingResults,
    Sample,
    Score,
    SweepPoint,
)
from coterie.report.text import summary
from coterie.report.words import verdict

__all__ = [
    "CurvePoint",
    "DataSummary",
    "EqualTime",
    "Interval",
    "ModelResults",
    "QuickstartResults",
    "RoutingResults",
    "Sample",
    "Score",
    "SweepPoint",
    "summary",
    "verdict",
    "write_report",
]
