"""Coding agents as their users install them, with the settings of docs/integrations.md, at one server (slow).

The model is scripted: it greets, or runs a command twice and tells what came back, or writes without end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.serve.client_recipes import ClientFacts, recipe
from coterie.serve.server import ServerThread
from tests.clients import Watch, clean_environment, pinned, run
from tests.serve.scripted import calls_twice, scripted
from tests.serve.support import eventually

pytestmark = pytest.mark.slow
COMMAND = "echo number $((700 + 287))"  # what it prints does not stand in the command
COMMANDS = calls_twice(
    {
        "exec_command": {"cmd": COMMAND},
        "bash": {"command": COMMAND, "description": "Say a number"},
        "run_shell_command": {"command": COMMAND, "is_background": False, "description": "Say a number"},
    },
    fallback="A title",
)
DOG = {
    "type": "object",
    "properties": {"name": {"enum": ["Rex", "Fido"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def agent(prompt: str, held: bool) -> str | None:
    last = prompt.rsplit("<|im_start|>user\n", 1)[-1]
    for asked, said in (
        ("Say hello.", "Hello there."),
        ("And again?", "Hello again."),
        ("Invent a dog.", '{"name":"Rex","age":3}'),
        ("Count without end.", "and one more " * 20_000),
    ):
        if asked in last:
            return said
    return COMMANDS(prompt, held)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with scripted(agent) as running:
        yield running


class Agent:
    """One installed agent: its command, its folder, its variables."""

    def __init__(self, command: Path, begin: list[str], folder: Path, **variables: str) -> None:
        self._command, self._begin, self.folder, self._variables = command, begin, folder, variables

    def says(self, *arguments: str) -> str:
        """What it prints."""
        return run(self._command, [*self._begin, *arguments], self.folder, **self._variables)

    def hang_up(self, server: ServerThread, *arguments: str) -> None:
        """Interrupt it (Ctrl-C) while the server writes."""
        with (self.folder / "log").open("w") as log:
            running = subprocess.Popen(
                [self._command, *self._begin, *arguments],
                cwd=self.folder,
                env=clean_environment(self.folder, **self._variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches all processes of a terminal's group
            )
            try:
                written = server.service.engine
                eventually(lambda: written.num_running > 0 or running.poll() is not None, 60)
                assert running.poll() is None, (self.folder / "log").read_text()[-2000:]
                os.killpg(running.pid, signal.SIGINT)
                running.wait(30)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)


def settings(client: str, server: ServerThread) -> str:
    """What `coterie serve --print-config` prints for this server."""
    port = int(server.url.rpartition(":")[2])
    return recipe(client, ClientFacts("tiny", 65_536, port=port)).block


@pytest.fixture
def codex(server: ServerThread, tmp_path: Path) -> Agent:
    home = tmp_path / "codex"
    home.mkdir()
    # Behind the recipe's last table, which is the provider's.
    (home / "config.toml").write_text(
        settings("codex", server) + "request_max_retries = 0\nstream_max_retries = 0\n"
    )
    (tmp_path / "dog.json").write_text(json.dumps(DOG))
    command = pinned("codex") / "node_modules" / ".bin" / "codex"
    begin = ["exec", "--skip-git-repo-check", "-o", "last.txt"]
    return Agent(command, begin, tmp_path, CODEX_HOME=str(home))


@pytest.fixture
def opencode(server: ServerThread, tmp_path: Path) -> Agent:
    mine = {"autoupdate": False, "share": "disabled", "permission": {"bash": "allow"}}
    (tmp_path / "opencode.json").write_text(json.dumps(json.loads(settings("opencode", server)) | mine))
    command = pinned("opencode") / "node_modules" / ".bin" / "opencode"
    places = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "CONFIG", "CACHE", "STATE")}
    off = ("MODELS_FETCH", "AUTOUPDATE", "DEFAULT_PLUGINS", "LSP_DOWNLOAD")
    alone = {f"OPENCODE_DISABLE_{name}": "1" for name in off}
    begin = ["run", "--pure", "--format", "json", "--model", "coterie/tiny"]
    given = {"OPENCODE_CONFIG": str(tmp_path / "opencode.json"), "HOME": str(tmp_path / "home")}
    return Agent(command, begin, tmp_path, **given, **places, **alone)


def last(agent: Agent) -> str:
    return (agent.folder / "last.txt").read_text().strip()


def test_codex_speaks_and_goes_on(codex: Agent) -> None:
    codex.says("Say hello.")
    assert last(codex) == "Hello there."
    codex.says("resume", "--last", "And again?")
    assert last(codex) == "Hello again."


def test_codex_runs_commands(codex: Agent) -> None:
    codex.says("-s", "danger-full-access", "Which number?")
    assert last(codex).startswith("The tool said: ") and last(codex).count("number 987") == 2


def test_codex_gets_an_object(codex: Agent) -> None:
    codex.says("--output-schema", "dog.json", "Invent a dog.")
    assert json.loads(last(codex)) == {"name": "Rex", "age": 3}


def test_codex_is_interrupted(codex: Agent, server: ServerThread) -> None:
    with Watch(server):
        codex.hang_up(server, "Count without end.")


def texts(printed: str) -> list[str]:
    """The texts among the events that opencode prints, one a line."""
    events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert not [event for event in events if event["type"] == "error"], printed[-2000:]
    return [event["part"]["text"] for event in events if event["type"] == "text"]


def test_opencode_speaks_and_goes_on(opencode: Agent) -> None:
    assert texts(opencode.says("Say hello.")) == ["Hello there."]
    assert texts(opencode.says("--continue", "And again?")) == ["Hello again."]


def test_opencode_runs_commands(opencode: Agent) -> None:
    assert texts(opencode.says("Which number?")) == ["The tool said: number 987 and number 987"]


def test_opencode_is_interrupted(opencode: Agent, server: ServerThread) -> None:
    with Watch(server):
        opencode.hang_up(server, "Count without end.")


def test_aider_speaks(server: ServerThread, tmp_path: Path) -> None:
    command = pinned("aider").with_name("aider")
    (tmp_path / "begin.sh").write_text(settings("aider", server) + f'exec {command} "$@"\n')
    options = [
        "--message",
        "Say hello.",
        "--no-git",
        "--yes-always",
        "--no-check-update",
        "--analytics-disable",
    ]
    aider = Agent(Path("/bin/sh"), ["begin.sh"], tmp_path, HOME=str(tmp_path))
    said = aider.says(*options)
    assert "Hello there." in said and "openai/tiny" in said
    with Watch(server):
        aider.hang_up(server, "--message", "Count without end.", *options[2:])
    assert "Warning" not in said, "the recipe's file tells it the model's context and costs"


def test_qwen_code_speaks(server: ServerThread, tmp_path: Path) -> None:
    (tmp_path / ".qwen").mkdir()
    (tmp_path / ".qwen" / "settings.json").write_text(settings("qwen-code", server))
    command = pinned("qwen-code") / "node_modules" / ".bin" / "qwen"
    qwen = Agent(command, ["-p"], tmp_path, HOME=str(tmp_path), COTERIE_API_KEY="none")
    assert "Hello there." in qwen.says("Say hello.")
