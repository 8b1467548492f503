"""The settings of an agent, and the tools that they offer."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.agents.loop import Budget
from coterie.agents.offered import offered_tools
from coterie.agents.settings import AgentSettings
from coterie.config import ConfigError


def test_the_defaults_are_those_of_the_budget() -> None:
    assert AgentSettings().budget == Budget() and AgentSettings().file is None
    assert AgentSettings(max_steps=2, seed=7).sampling.seed == 7


def test_a_resumed_conversation_has_its_own_transcript() -> None:
    assert AgentSettings(resume=Path("t.jsonl")).file == Path("t.jsonl")
    for more in ({"transcript": "u.jsonl"}, {"system": "Be brief."}):
        with pytest.raises(ConfigError, match="leave out both"):
            AgentSettings.from_dict({"resume": "t.jsonl"} | more)


def test_tools_follow_the_settings(tmp_path: Path) -> None:
    tools, facts = offered_tools(AgentSettings(python=False, dir=tmp_path, allow_http=("example.org",)))
    assert [tool.name for tool in tools] == [
        "calculator",
        "list_files",
        "read_file",
        "write_file",
        "http_get",
    ]
    assert facts == {}
