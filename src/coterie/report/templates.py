"""The HTML templates of this package, with the style sheet they share."""

from __future__ import annotations

from importlib import resources
from typing import Any


def render_template(name: str, **values: Any) -> str:
    """The template `name` with `values` and `css`. Text is escaped, and a missing variable is an error."""
    import jinja2
    from markupsafe import Markup

    here = resources.files("coterie.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: (here / file).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    css = Markup((here / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(css=css, **values)
