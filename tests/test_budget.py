"""Limits that keep the code readable: sizes, annotations, docstrings, names, duplication, configurations."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.config.run import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES, FUNCTION_LINES = 400, 60
PACKAGE_SHARE = 0.11  # of the lines of src/coterie: no package becomes the house
DUPLICATE_RUN, DUPLICATE_SHARE = 6, 0.03
# "path" or "path::name" -> why it may exceed a limit.
EXCEPTIONS: dict[str, str] = {}
# Class name that several files of src define -> why it means the same thing in each.
SHARED_CLASS_NAMES: dict[str, str] = {}
# Files that may evaluate code -> why that code can be trusted.
EVALUATES = {"src/coterie/primer/programs.py": "runs only expressions it has written itself, to trace them"}
EXECUTES = {"src/coterie/sandbox/caller_inside.py": "runs in a confined process, which is its only use"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path, function: str = "") -> str:
    return str(path.relative_to(ROOT)) + (f"::{function}" if function else "")


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, name + ".")
        else:
            yield from functions(node, prefix)


def public_functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Public functions of a module, and public methods of its public classes (no leading underscore)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node


def missing_annotations(function: Function) -> list[str]:
    a = function.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    missing = [arg.arg for arg in named if arg.annotation is None and arg.arg not in ("self", "cls")]
    return missing + (["return"] if function.returns is None else [])


def needs_docstring(function: Function) -> bool:
    """A property or a one-line body is described by its name."""
    decorators = {ast.unparse(d) for d in function.decorator_list}
    one_line = len(function.body) == 1 and function.body[0].end_lineno == function.body[0].lineno
    setter = any(d.endswith(".setter") for d in decorators)
    return not (one_line or setter or decorators & {"property", "cached_property", "override", "overload"})


def documented_methods(trees: list[ast.Module]) -> dict[str, set[str]]:
    """Class name -> methods that need no docstring, because they or those they override have one.

    The docstring of a class describes its `forward`, which is its calling convention.
    """
    classes = {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def collect(name: str) -> set[str]:
        if name not in classes:
            return set()
        node = classes[name]
        own = {f.name for f in node.body if isinstance(f, Function) and ast.get_docstring(f)}
        own |= {"forward"} if ast.get_docstring(node) else set()
        return own.union(*(collect(ast.unparse(base).split(".")[-1].split("[")[0]) for base in node.bases))

    return {name: collect(name) for name in classes}


def duplicated(paths: list[Path], run: int = DUPLICATE_RUN) -> tuple[dict[tuple[str, int], str], int]:
    """Lines that are part of a repeated run of `run` lines.

    Returns (path, line number) -> text, and the number of all lines. Blank lines, comments, imports and lines
    of brackets alone do not count.
    """
    windows: dict[tuple[str, ...], list[list[tuple[str, int]]]] = defaultdict(list)
    texts: dict[tuple[str, int], str] = {}
    for path in paths:
        lines = [(i, line.strip()) for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)]
        lines = [(i, line) for i, line in lines if not re.fullmatch(r"[\W_]*|#.*|(from|import) .*", line)]
        places = [(str(path), i) for i, _ in lines]
        texts |= dict(zip(places, (line for _, line in lines), strict=True))
        for start in range(len(lines) - run + 1):
            key = tuple(line for _, line in lines[start : start + run])
            windows[key].append(places[start : start + run])
    repeated = {place for found in windows.values() if len(found) > 1 for places in found for place in places}
    return {place: texts[place] for place in sorted(repeated)}, len(texts)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """The syntax of every source file."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources("src")}


def test_exceptions_are_needed_and_reasoned():
    for name, reason in (EXCEPTIONS | EVALUATES | EXECUTES).items():
        assert (ROOT / name.split("::")[0]).exists(), f"{name} is gone: delete its exception"
        assert len(reason) > 10


def test_file_sizes():
    long = {
        name_of(p): n
        for p in sources("src", "tests", "bench")
        if (n := len(p.read_text().splitlines())) > FILE_LINES
    }
    assert not {name: n for name, n in long.items() if name not in EXCEPTIONS}, f"at most {FILE_LINES} lines"


def test_function_sizes(trees):
    long = {}
    for path in sources("src", "tests", "bench"):
        for name, node in functions(trees.get(path) or ast.parse(path.read_text(encoding="utf-8"))):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES and name_of(path, name) not in EXCEPTIONS:
                long[name_of(path, name)] = lines
    assert not long, f"at most {FUNCTION_LINES} lines"


def test_package_sizes():
    lines: dict[str, int] = defaultdict(int)
    for path in sources("src"):
        lines[path.relative_to(ROOT / "src" / "coterie").parts[0]] += len(path.read_text().splitlines())
    large = {name: n for name, n in lines.items() if n > PACKAGE_SHARE * sum(lines.values())}
    assert not large, f"at most {PACKAGE_SHARE:.0%} of {sum(lines.values())} lines"


def test_public_functions_are_annotated(trees):
    wrong = {
        name_of(path, name): missing
        for path, tree in trees.items()
        for name, node in public_functions(tree)
        if (missing := missing_annotations(node)) and name_of(path, name) not in EXCEPTIONS
    }
    assert not wrong


def test_docstrings(trees):
    documented = documented_methods(list(trees.values()))
    wrong = [name_of(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    for path, tree in trees.items():
        for name, node in public_functions(tree):
            *owner, method = name.split(".")
            known = bool(owner) and method in documented[owner[-1]]
            if needs_docstring(node) and not known and not ast.get_docstring(node):
                wrong.append(name_of(path, name))
    wrong = [name for name in wrong if name not in EXCEPTIONS]
    assert not wrong, "\n".join(wrong)


def test_a_class_name_has_one_meaning(trees):
    places = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not {name: found for name, found in shared.items() if name not in SHARED_CLASS_NAMES}
    assert all(name in shared for name in SHARED_CLASS_NAMES), "delete exceptions that are no longer needed"


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_duplication(folder):
    repeated, total = duplicated(sources(folder))
    shown = "\n".join(f"{path}:{line}: {text}" for (path, line), text in list(repeated.items())[:60])
    assert len(repeated) <= DUPLICATE_SHARE * total, (
        f"{len(repeated)} of {total} lines are duplicated\n{shown}"
    )


def test_the_duplicate_finder_itself(tmp_path):
    block = [f"value_{i} = {i}" for i in range(7)]
    (tmp_path / "a.py").write_text("\n".join(["first = 1", *block, "", "import os"]))
    (tmp_path / "b.py").write_text("\n".join(["# why", *block[:3], "", *block[3:6], "other = 2"]))
    repeated, total = duplicated(sorted(tmp_path.glob("*.py")))
    assert total == 8 + 7
    assert [line for _, line in repeated] == [2, 3, 4, 5, 6, 7, 2, 3, 4, 6, 7, 8]


def test_nothing_unsafe_is_reachable():
    pattern = re.compile(
        r"\btorch\.load\(|\b(import|from) (pickle|dill|joblib)\b|(?<!\.)\b(eval|exec)\(|except:"
    )
    found = [
        f"{name_of(path)}:{i}: {line.strip()}"
        for path in sources("src")
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
        and not ("eval(" in line and name_of(path) in EVALUATES)
        and not ("exec(" in line and name_of(path) in EXECUTES)
    ]
    assert not found, "\n".join(found)


def test_documents_name_files_that_exist():
    missing = []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
        missing += [f"{document.name}: {t}" for t in links if not (document.parent / t).exists()]
        named = re.findall(r"`((?:src|tests|docs|bench|configs|\.ci)/[\w./-]*)`", text)
        missing += [f"{document.name}: {t}" for t in named if not (ROOT / t).exists()]
    assert not missing, "\n".join(missing)


def test_shipped_configurations_parse():
    paths = sorted((ROOT / "configs").glob("**/*.yaml"))
    assert paths, "configs/ holds no YAML file"
    for path in paths:
        TrainConfig.from_yaml(path)
