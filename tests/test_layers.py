"""The layer table of docs/architecture.md, enforced by reading every import; light layers must stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "coterie"
LAYERS = {
    "config": 0,
    "text": 1,
    "plan": 1,
    "remote": 1,
    "results": 1,
    "jit": 1,
    "sandbox": 2,
    "primer": 2,
    "report": 2,
    "stats": 2,
    "evidence": 2,
    "contamination": 2,
    "data": 3,
    "nn": 3,
    "machine": 3,
    "hub": 3,
    "tasks": 3,
    "reasoning": 4,
    "benchmarks": 4,
    "families": 4,
    "native": 4,
    "llamacpp": 5,
    "proof": 5,
    "surgery": 5,
    "checkpoints": 6,
    "adapters": 7,
    "identity": 7,
    "gguf": 7,
    "train": 8,
    "infer": 8,
    "verify": 8,
    "library": 8,
    "agents": 8,
    "evaluate": 9,
    "reinforce": 9,
    "release": 10,
    "recipes": 11,
    "hosting": 11,
    "protocol": 12,
    "api": 13,
    "serve": 14,
    "cli": 15,
}
# Inside `api` the same rule holds: a room imports only from rooms below it and from itself.
API_ROOMS = {"openai": 1, "anthropic": 1, "admin": 1, "jobs": 1, "ollama": 1}
LIGHT = [
    name
    for name, layer in LAYERS.items()
    if layer <= 2 or name in ("data", "tasks", "reasoning", "benchmarks")
]
HEAVY = {"torch", "transformers"}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name below `coterie` and path of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imports(path: Path) -> list[str]:
    """Every dotted name that a file imports, wherever in it (`from a import b` is `a.b`)."""
    return [*_imports(path)]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str:
    return module.split(".")[0]


def upward(module: str, imported: str) -> bool:
    """Whether `module` (below coterie) may not import `coterie.<imported>`: a sibling or a higher layer."""
    here, there = package_of(module), package_of(imported)
    return here != there and LAYERS[there] >= LAYERS[here]


def test_every_package_is_in_the_table():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(LAYERS)


def test_the_table_is_the_documented_one():
    rows = re.findall(
        r"^\| (\d+)(\*?) \| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), flags=re.MULTILINE
    )
    assert {name: int(layer) for layer, _, name in rows} == LAYERS
    assert [name for _, star, name in rows if star] == LIGHT


def test_imports_go_down():
    wrong = []
    for module, path in modules():
        if module in ("", "__main__"):  # the package's own face: names its members lazily (checked below)
            continue
        for name in imports(path):
            if name.startswith("coterie."):
                target = name.removeprefix("coterie.")
                if package_of(target) in LAYERS and upward(module, target):
                    wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_rooms_of_api_import_downwards():
    found = {path.name for path in (PACKAGE / "api").iterdir() if path.is_dir()}
    assert found - {"__pycache__"} == set(API_ROOMS)
    wrong = []
    for module, path in modules():
        rooms = module.split(".")[1:2] if package_of(module) == "api" else []
        for name in imports(path):
            target = name.removeprefix("coterie.api.").split(".")[0]
            if rooms and name.startswith("coterie.api.") and target != rooms[0]:
                if API_ROOMS[target] >= API_ROOMS[rooms[0]]:
                    wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_rule_itself():
    assert upward("plan.counts", "text.tokenizer")  # a sibling
    assert upward("nn.moe", "train.loop")  # a higher layer
    assert not upward("nn.moe", "nn.router") and not upward("nn.moe", "config.model")


def test_light_layers_never_name_a_heavy_library():
    wrong = [
        f"{module} imports {name}"
        for module, path in modules()
        if package_of(module) in LIGHT
        for name in imports(path)
        if package_of(name) in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def cycles(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One trail `a -> b -> a` for each cycle that a depth-first walk of the graph meets."""
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return found


def test_no_import_cycle():
    """Imports inside functions and under TYPE_CHECKING count: files of a circle cannot be read one by one."""
    # Exempt: the package's own face, `coterie`, which names its public members lazily.
    paths = {f"coterie.{module}": path for module, path in modules() if module}
    graph = {}
    for module, path in paths.items():
        named = {name if name in paths else name.rpartition(".")[0] for name in imports(path)}
        graph[module] = sorted(named & set(paths))
    assert not cycles(graph), "\n".join(cycles(graph))


def test_the_cycle_finder_itself(tmp_path):
    assert cycles({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b -> c -> b"]
    assert cycles({"a": ["b", "c"], "b": ["c"], "c": []}) == []
    path = tmp_path / "lazy.py"
    path.write_text("if TYPE_CHECKING:\n    from a import b\ndef f():\n    import c.d\n")
    assert sorted(imports(path)) == ["a.b", "c.d"]


@pytest.mark.parametrize("package", LIGHT)
def test_importing_a_light_layer_loads_nothing_heavy(package):
    heavy = [*HEAVY, "matplotlib", "datasets", "scipy"]
    code = f"import sys, coterie.{package}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
