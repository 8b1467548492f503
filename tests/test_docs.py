"""What the documents say is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["cli", "families", "fields", "integrations"])
def test_pages_made_by_scripts_are_up_to_date(page: str) -> None:
    """The commands' own --help, the registry of families, the table of fields, the recipes of clients."""
    script = f"make_{page}.py"
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / script, "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr + f"write it again with: python docs/{script}"


def test_the_results_page_is_drawn_from_the_records() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "bench" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr + "write it again with: python bench/tables.py"


@pytest.mark.parametrize("page", [*sorted(p.name for p in (ROOT / "docs").glob("*.md")), "../README.md"])
def test_commands_in_the_documents_exist(page: str) -> None:
    """Every `coterie VERB` written anywhere is a verb, and every option behind it is known to that verb."""
    from typer.main import get_command

    from coterie.cli.main import app

    program: Any = get_command(app)
    commands = {name: program.get_command(None, name) for name in program.list_commands(None)}
    groups = [name for name, command in commands.items() if hasattr(command, "list_commands")]
    known = dict(commands)
    for group in groups:
        inner = commands[group]
        known |= {f"{group} {name}": inner.get_command(None, name) for name in inner.list_commands(None)}
    text = (ROOT / "docs" / page).read_text()
    for line in _code(text):
        match = re.match(rf"coterie ((?:(?:{'|'.join(groups)}) (?=[a-z]))?[a-z][a-z0-9-]*)(.*)", line)
        if match is None:
            continue  # a general form such as `coterie VERB`
        verb, rest = match.groups()
        default = getattr(commands.get(verb.split()[0]), "default", None)
        if default is not None and (verb in groups or verb not in known):
            verb = f"{verb.split()[0]} {default}"  # `coterie train FILE.yaml`
        assert verb in known, f"{page}: coterie {verb}"
        options = {option for parameter in known[verb].params for option in parameter.opts}
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest.split("#")[0]):
            assert option in options, f"{page}: coterie {verb} {option}"


def _code(text: str) -> list[str]:
    """Lines of code blocks and pieces of inline code that begin with the program's name."""
    blocks = [line for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.S) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line.strip() for line in [*blocks, *inline] if line.strip().startswith("coterie ")]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """The README's example on a freshly trained model of the same kind."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    coterie = [sys.executable, "-m", "coterie.cli.main"]
    subprocess.run([*coterie, "quickstart", "--minutes", "1.5", "--out", tmp_path / "q"], check=True)
    script = code.group(1).replace("runs/quickstart", str(tmp_path / "q"))
    assert len([line for line in script.splitlines() if line.strip()]) <= 5
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "torch.Size" in result.stdout
