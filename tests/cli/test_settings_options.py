"""Options made from settings: each default, bound and description is the field's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from coterie.cli.settings_options import with_options
from coterie.config import ConfigError, Settings
from coterie.hosting.settings import NOT_OPTIONS, ServeSettings


class Toy(Settings):
    size: int = Field(3, ge=1, le=9, description="How large.")
    kind: Literal["a", "b"] = Field("a", description="Which.")
    hosts: tuple[str, ...] = Field((), description="A host.")
    where: Path | None = Field(None, description="A place.")
    share: float = Field(0.5, gt=0, description="A share.")
    loud: bool = Field(False, description="Shout.")
    secret: str = Field("", description="Never an option.")


def run(*given: str) -> tuple[int, str, list[tuple[str, Toy]]]:
    """(exit code, output, what the verb received)."""
    seen: list[tuple[str, Toy]] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_options(Toy, leave_out=("secret",))
    def verb(name: str, settings: Toy, more: Annotated[str, typer.Option(help="More.")] = "x") -> None:
        """Do it."""
        seen.append((name + more, settings))

    done = CliRunner().invoke(app, list(given))
    if isinstance(done.exception, ConfigError):
        raise done.exception
    return done.exit_code, done.output, seen


def test_defaults_are_the_fields() -> None:
    assert run("me")[2] == [("mex", Toy())]


def test_values_reach_the_settings() -> None:
    given = ["me", "--more", "y", "--size", "4", "--kind", "b", "--host", "one", "--host", "two"]
    seen = run(*given, "--where", "here", "--share", "0.25", "--loud")[2]
    expected = Toy(size=4, kind="b", hosts=("one", "two"), where=Path("here"), share=0.25, loud=True)
    assert seen == [("mey", expected)]


@pytest.mark.parametrize("given", [["--size", "10"], ["--kind", "c"], ["--secret", "x"]])
def test_values_outside_the_bounds_are_usage_errors(given: list[str]) -> None:
    assert run("me", *given)[0] == 2


def test_a_bound_that_options_lack_is_the_settings_error() -> None:
    with pytest.raises(ConfigError, match="verb: 'share': Input should be greater than 0"):
        run("me", "--share", "0")


def test_the_help_shows_descriptions_and_defaults() -> None:
    text = run("--help")[1]
    assert "How large." in text and "default: 3" in text and "1<=x<=9" in text and "Never" not in text


def test_every_server_option_is_a_described_field() -> None:
    assert set(NOT_OPTIONS) < set(ServeSettings.model_fields)
    assert all(field.description for field in ServeSettings.model_fields.values())
