"""Stop strings, against a reference that reads one character at a time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.text.stop_strings import StopStrings


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(
    st.lists(st.text("ab", max_size=5), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_stop_strings_over_any_cutting(pieces: list[str], stops: list[str]) -> None:
    filter_ = StopStrings(stops)
    said = ""
    stopped = False
    for piece in pieces:
        text, stopped = filter_.push(piece)
        said += text
        if stopped:
            break
    if not stopped:
        said += filter_.finish()
    assert (said, stopped) == cut_at_first_stop("".join(pieces), stops)
