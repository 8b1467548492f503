"""Write docs/fields.md from the table of fields; with --check, fail when it is not up to date."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from made_page import write_or_check

from coterie.protocol.field_table import EXTRAS, ITEMS
from coterie.protocol.field_table.requests import LABELS, SHARED

PAGE = Path(__file__).parent / "fields.md"
INTRODUCTION = f"""# Fields without effect, and fields that are refused

`python docs/make_fields.py` writes this page from the table that the server reads
(`protocol/field_table/`). [docs/serve.md](serve.md) describes the fields that the server honours.

A field that would change the reply and cannot be honoured is a 400 that points to it. A field that cannot
change the reply is accepted and **named**: in the header `x-coterie-ignored`, and in the last data object of
a stream as `x_coterie_ignored`. A field that asks for nothing is as good as absent: `null`, and for the
fields of this page also `false`, `""` and `[]`.

The first two tables hold for requests that do not honour the field themselves.

At the top of a request, a field that this page does not list is a 400. The objects marked "open" describe
something that has been said or made. Their other fields are accepted and named, unless the name looks like a
misspelt one.

`coterie serve --strict` refuses what is named here, except the labels that the API's contract lists:
{", ".join(f"`{name}`" for name in LABELS)}.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, extra in SHARED.items():
        parts += _section(title, extra.rows())
    for place, extra in EXTRAS.items():
        rows = [*extra.rows()]
        for common in (set(shared.rows()) for shared in SHARED.values()):
            if common <= {*rows}:
                rows = [row for row in rows if row not in common]
        parts += _section(f"`{place}`" + (", open" if extra.is_open else ""), rows)
    items = [(name, "refused", why) for name, why in ITEMS.items()]
    parts += _section("Types of items in `input` of `/v1/responses`", items)
    return "\n".join(parts)


def _section(title: str, rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """A heading and a table; fields with one fate and one reason share a row."""
    fields: dict[tuple[str, str], list[str]] = {}
    for name, fate, why in rows:
        fields.setdefault((fate, why), []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {fate} | {why} |" for (fate, why), names in fields.items()]
    if not lines:
        return []
    return [
        f"## {title}\n",
        "| field | what happens | why, or what it would need |",
        "|---|---|---|",
        *lines,
        "",
    ]


if __name__ == "__main__":
    write_or_check(PAGE, render())
