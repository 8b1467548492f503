"""The libraries' recipes of docs/integrations.md, run as they are printed (slow)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from coterie.serve.client_recipes import ClientFacts, recipe
from coterie.serve.server import ServerThread
from tests.clients import PYTHON, clean_environment, pinned, run

pytestmark = pytest.mark.slow
OLLAMA = """
import ollama

reply = ollama.chat("tiny", [{"role": "user", "content": "Hello"}], options={"num_predict": 20})
print(reply.message.content)
"""


def block(client: str, server: ServerThread) -> str:
    port = int(server.url.rpartition(":")[2])
    return recipe(client, ClientFacts("tiny", 65_536, port=port)).block


@pytest.mark.parametrize(
    ("client", "last"),
    [
        ("openai", None),
        ("litellm", None),
        ("langchain", "32"),
        ("llamaindex", None),
        ("pydantic-ai", None),
        ("instructor", None),
        ("langchain-js", "32"),
        ("ai-sdk", None),
    ],
)
def test_a_recipe_runs(client: str, last: str | None, scripted_server: ServerThread, tmp_path: Path) -> None:
    found, code = pinned(client), block(client, scripted_server)
    if client in PYTHON:
        printed = run(found, ["-c", code], tmp_path)
    else:  # node looks for packages beside the script
        script = found / "recipe.mjs"
        script.write_text(code)
        printed = run(Path("node"), [str(script)], tmp_path)
    said = printed.strip().splitlines()
    assert said and (last is None or said[-1] == last), printed
    if client == "instructor":
        assert said[-1] in ("colour='red'", "colour='green'")


def test_the_variables_of_ollama(scripted_server: ServerThread, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(OLLAMA)
    script = block("ollama", scripted_server) + f"exec {pinned('ollama')} hello.py\n"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
        timeout=100, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
