"""Every program runs, its assertions hold, and its trace is what Python itself does."""

import ast
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.primer import programs
from coterie.primer.base import Rng

SEEDS = st.integers(0, 10**6)


def traced_by_python(source: str, name: str, argument):
    """The assignments of one call and its result, seen through Python's own tracing of executed lines.

    A line that assigns is recorded after it has run, when the next event of the frame arrives.
    """
    scope: dict = {}
    exec(compile(source, "<program>", "exec"), scope)
    targets = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            targets[node.lineno] = (node.targets[0].id, False)
        elif isinstance(node, ast.AugAssign):
            targets[node.lineno] = (node.target.id, False)
        elif isinstance(node, ast.For):
            targets[node.lineno] = (node.target.id, True)
    last_line = len(source.splitlines())
    seen, pending = [], None

    def watch(frame, event, _argument):
        nonlocal pending
        if frame.f_code.co_name != name:
            return None
        if event == "line":
            if pending:
                target, loop = targets[pending]
                if not loop or frame.f_lineno != last_line:  # a loop that is over assigns nothing
                    seen.append((target, frame.f_locals[target]))
            pending = frame.f_lineno if frame.f_lineno in targets else None
        return watch

    sys.settrace(watch)
    try:
        result = scope[name](argument)
    finally:
        sys.settrace(None)
    return seen, result


@settings(max_examples=120, deadline=None)
@given(SEEDS)
def test_the_trace_is_python_s_own(seed):
    program, arguments = programs.draw(Rng("test programs", seed))
    for argument in arguments:
        kept = list(argument) if program.takes_list else argument
        before = sys.gettrace()
        try:
            expected = traced_by_python(program.source(), program.name, argument)
        finally:
            sys.settrace(before)
        assert program.trace(argument) == expected
        assert argument == kept


@settings(max_examples=150, deadline=None)
@given(SEEDS, SEEDS)
def test_every_document_is_a_program_that_runs(seed, index):
    text = programs.generate(seed, index).text
    exec(compile(text, "<document>", "exec"), {})
    tree = ast.parse(text)
    assert sum(isinstance(node, ast.Assert) for node in tree.body) >= 3
    comments = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    assert comments[-1].startswith("return ")
    call, result = comments[0], comments[-1].removeprefix("return ")
    assert text.splitlines()[-1] == f"assert {call} == {result}"
    # Each comment between says what a name is at that moment: the last of each name is its value at the end.
    assert all(" = " in line for line in comments[1:-1])


def test_assertions_can_fail():
    text = programs.generate(0, 0).text
    head, _, value = text.rstrip("\n").rpartition("== ")
    try:
        exec(
            compile(
                f"{head}== {value} + [0]" if value.startswith("[") else f"{head}== {value} + 1", "<d>", "exec"
            ),
            {},
        )
    except AssertionError:
        return
    raise AssertionError("a wrong value passed")
