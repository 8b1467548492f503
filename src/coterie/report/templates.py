"""The HTML templates of this package, with the style sheet they share."""

from __future__ import annotations

from importlib import resources
from typing import Any


def render_template(name: str, **values: Any) -> str:
    """The template `name` with `values` and `css`. Text is escaped, and a missing variable is an error."""
    import jinja2
    from markupsafe import Markup

    here = resources.files("coterie.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((here / name).read_text(encoding="utf-8"))
    return template.render(css=Markup((here / "page.css").read_text(encoding="utf-8")), **values)
