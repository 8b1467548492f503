"""The page: self-contained, well formed, every figure in it, and the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from coterie.report.page import render, write_report
from coterie.report.plots import smooth
from coterie.report.text import summary
from coterie.report.words import released
from coterie.results.quickstart import ReleaseResults
from tests.report.fake import fake_metrics, fake_results

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects text, ids and references, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.labels: list[str] = []
        self.text = ""

    def handle_startendtag(self, tag, attrs):
        self._note(attrs)

    def handle_starttag(self, tag, attrs):
        self._note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def _note(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.references.append(value)
            if name == "aria-label":
                self.labels.append(value)
            self.references += re.findall(r"url\((.*?)\)", value or "")


@pytest.fixture(scope="module")
def page() -> str:
    return render(fake_results(), fake_metrics())


@pytest.fixture(scope="module")
def reader(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_nothing_is_fetched_and_every_id_is_its_own(page, reader):
    assert reader.open == []
    assert len(page.encode()) < 1_500_000
    assert "<script" not in page and "@import" not in page
    local = {f"#{name}" for name in reader.ids}
    assert len(local) == len(reader.ids) > 0
    assert all(r in local or r.startswith("data:image/png;base64,") for r in reader.references)


def test_every_figure_is_there_and_named(page, reader):
    # three curves, two on slices, four layers, two loads, one of learning rates, one of rewards
    assert page.count("<svg") == len(reader.labels) == 13
    assert all(len(label) > 20 for label in reader.labels)
    assert not re.search(r"#0[1-6]0[2-7]0[3-8]", page), "a marker colour was not replaced by the page's"
    assert "DejaVu" not in page[page.index("</style>") :]


def test_what_the_models_wrote_is_shown_and_never_run(page, reader):
    assert "<b>not</b> happy" in reader.text
    assert "<b>not</b>" not in page
    for part in ("return total", "1.2 %", "3.42 M", "coterie chat runs/quickstart/moe", "312 exact copies"):
        assert part in reader.text


def test_what_rewards_taught_is_shown(reader):
    assert "Reasoning, learnt from rewards" in reader.text and "after: right\n0100" in reader.text
    assert "50 % of 240 held-out problems before, 95 % after" in reader.text


def test_the_release_is_shown_with_the_refusal_of_a_changed_expert(reader):
    assert "Released with its evidence" in reader.text
    assert "the check finds nothing against it" in reader.text
    assert "the check refuses it: identity: the report is of the weights" in reader.text
    for part in (
        "(layer 1: expert 3)",
        "lists (accuracy)",
        "0.50 to 0.90",
        "D9",
        "index:pretrain",
        "ab" * 32,
    ):
        assert part in reader.text


def test_a_refused_release_says_why():
    results = fake_results()
    assert results.release is not None
    bare = {"model": results.release.model, "path": "nowhere", "refused": ["plan: it names <no> plan"]}
    text = render(results.model_copy(update={"release": ReleaseResults(**bare)}), fake_metrics())
    assert "The release was refused: plan: it names &lt;no&gt; plan." in text
    assert "Why there is no release" in text and "one expert changed" not in text
    passed = results.release.model_copy(update={"refusals": []})
    assert "which is a fault of the check" in released(passed)


def test_same_records_same_page(page, tmp_path):
    write_report(fake_results(), fake_metrics(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_least_there_can_be():
    results = fake_results(slices=("my $text$ & <more>",), layers=1, experts=2)
    bare = {"samples": [], "equal_time": None, "reasoning": None, "release": None}
    for who in ("moe", "dense"):
        model = getattr(results, who)
        bare[who] = model.model_copy(update={"lr_sweep": [], "probes": {}, "curve": model.curve[:1]})
    text = render(results.model_copy(update=bare), {})
    assert text.count("<svg") == 3 + 2 + 1
    assert "my $text$ &amp; &lt;more&gt;" in text
    assert "equal time" not in text and "Is every expert used" not in text


def test_smoothing_keeps_the_mean():
    points = [(float(i), float(i % 7)) for i in range(700)]
    smoothed = smooth(points)
    assert len(smoothed) == 100 and smoothed[-1][0] == 699
    assert all(y == 3 for _, y in smoothed)
    assert smooth(points[:5]) == points[:5]


def test_summary_lines_up():
    text = summary(fake_results(), width=80)
    lines = text.splitlines()
    costs = lines[lines.index("cost") + 1 :][:12]
    assert len({len(line) for line in costs}) == 1
    assert any(
        line.split() == ["code", "2.335", "2.358", "−0.0231", "−0.0327", "to", "−0.0135"] for line in lines
    )
    assert all(
        len(line) <= 80
        for line in lines[lines.index("") :]
        if line.startswith(("* ", "  ")) and "  " not in line[2:]
    )
