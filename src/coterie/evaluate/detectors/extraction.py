"""D9: whether a score depends on how replies are read, and items that have no score."""

from __future__ import annotations

from coterie.results.evaluation import DetectorFinding, TaskResult

WIDEST_GAP, MOST_UNPARSED = 0.03, 0.02


def extraction_finding(task: TaskResult) -> DetectorFinding:
    """Flagged where the lenient reading gives 3 points more, or more than 2 % hold no answer."""
    facts = task.extraction
    judged = max(1, task.samples.rows - facts.failed)
    unparsed, truncated = facts.unparsed / judged, facts.truncated / judged
    gap = 0.0 if facts.gap is None else facts.gap
    said = []
    if abs(gap) > WIDEST_GAP:
        said.append(f"a lenient reading of the replies gives {100 * gap:+.1f} points")
    if unparsed > MOST_UNPARSED:
        said.append(f"{unparsed:.1%} of the replies hold no answer in the form that was asked for")
    flag = bool(said)
    if truncated > MOST_UNPARSED:
        said.append(f"{truncated:.1%} of the replies were cut off at their limit")
    fine = f"lenient reading {100 * gap:+.1f} points, {unparsed:.1%} without an answer"
    return DetectorFinding(id="D9", statistic=gap, flag=flag, says="; ".join(said) or fine)


def failed_finding(task: TaskResult) -> DetectorFinding | None:
    """Flagged where items have no score; None where all have one."""
    count = task.extraction.failed
    if not count:
        return None
    share = count / task.samples.rows
    says = f"{count} of {task.samples.rows} replies have no score (did not fit, or could not be judged)"
    return DetectorFinding(id="failed", statistic=share, flag=True, says=says)
