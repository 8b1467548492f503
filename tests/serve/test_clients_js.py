"""Released JavaScript clients, each in its own folder of packages, against one server (slow).

Chat, stream, a tool called in two turns before the answer, structured output, and hanging up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.serve.server import ServerThread
from tests.clients import Watch, play
from tests.serve.test_clients_python import TOLD, is_dog

pytestmark = pytest.mark.slow
TALKING = [
    ("openai-js", "openai_js.mjs", "chat"),
    ("openai-js", "openai_js.mjs", "responses"),
    ("anthropic-js", "anthropic_js.mjs", "messages"),
    ("ollama-js", "ollama_js.mjs", "chat"),
    ("ai-sdk", "ai_sdk.mjs", "responses"),
    ("ai-sdk", "ai_sdk.mjs", "chat"),
    ("ai-sdk", "ai_sdk.mjs", "compatible"),
    ("ai-sdk", "ai_sdk.mjs", "messages"),
    ("langchain-js", "langchain_js.mjs", "chat"),
    ("langchain-js", "langchain_js.mjs", "responses"),
]


@pytest.mark.parametrize(("client", "script", "api"), TALKING, ids=[f"{c}-{api}" for c, _, api in TALKING])
def test_a_client_of_node(
    client: str, script: str, api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    def part(name: str) -> Any:
        return play(client, script, api + name, scripted_server.url, tmp_path)

    plain = part("")
    assert plain and part(" stream") == plain
    assert part(" tools") == TOLD
    assert is_dog(part(" structured"))
    with Watch(scripted_server):
        assert part(" cancel")


@pytest.mark.parametrize("api", ["responses", "chat", "compatible", "messages"])
def test_the_ai_sdk_goes_on_with_a_conversation(
    api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    """Its default refers to replies by `item_reference`: the server keeps them."""
    assert play("ai-sdk", "ai_sdk.mjs", f"{api} turns", scripted_server.url, tmp_path)
    assert play("ai-sdk", "ai_sdk.mjs", f"{api} tools streamed", scripted_server.url, tmp_path) == TOLD


def test_the_openai_package_runs_tools_in_a_stream(scripted_server: ServerThread, tmp_path: Path) -> None:
    assert play("openai-js", "openai_js.mjs", "chat tools streamed", scripted_server.url, tmp_path) == TOLD
