"""No field of the newest `anthropic` package is unknown here; the list is renewed when the package grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from coterie.api.anthropic import bodies
from coterie.protocol.body import Body
from coterie.protocol.field_table import EXTRAS
from tests.clients import environment, run

HERE = Path(__file__).parent
FIELDS: dict[str, list[str]] = json.loads((HERE / "package_fields.json").read_text())
BODIES = [one for one in vars(bodies).values() if isinstance(one, type) and issubclass(one, Body)]


@pytest.mark.parametrize("place", [place for place in FIELDS if place.startswith("/")])
def test_every_field_is_honoured_named_or_refused(place):
    read = {
        field.alias or name
        for body in BODIES
        if body.place == place
        for name, field in body.model_fields.items()
    }
    extra = EXTRAS[place]
    assert not [name for name in FIELDS[place] if name not in read and name not in extra]


def test_every_block_is_read_or_known_to_be_refused():
    """A kind of block that the package adds shows up here, so that it is looked at."""
    read = {kind for body in BODIES if "type" in body.model_fields
            for kind in get_args(body.model_fields["type"].annotation)}  # fmt: skip
    refused = {
        *("document", "image", "search_result", "container_upload", "compaction", "fallback"),
        *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "advisor_tool_result"),
        *("code_execution_tool_result", "bash_code_execution_tool_result", "tool_search_tool_result"),
        *("text_editor_code_execution_tool_result", "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing"),
        *("tool_addition", "tool_removal", "browser_state"),
    }
    assert {*FIELDS["blocks"], *FIELDS["blocks of results"]} - read == refused


@pytest.mark.slow
def test_the_list_is_that_of_the_package(tmp_path):
    python = environment("anthropic-2.14.0", "anthropic==2.14.0")
    assert json.loads(run(python, [str(HERE / "package_fields.py")], tmp_path)) == FIELDS
