"""`coterie eval`: score a model on tasks, list them, draw the report again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.config.evaluate import EvalConfig
    from coterie.results.evaluation import EvalReport

SUBJECT = "A directory, a hub id (owner/name), a GGUF file or the address of an OpenAI-compatible server."
Folder = Annotated[str, typer.Argument(help="The directory of an evaluation.")]


def run(
    model: Annotated[str | None, typer.Argument(help=SUBJECT)] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK... [key=value]...",
            help="Tasks (coterie eval list), and settings such as limit=100 or settings.arithmetic.n=50.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Where to write [default: runs/eval].")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of settings.")] = None,
    as_json: Json = False,
) -> None:
    """Score a model on tasks: a report bound to its weights, with every reply behind it.

    Writes report.json, report.html and samples/TASK.jsonl. The same command goes on where it was stopped.
    """
    from coterie.recipes.evaluate import PAGE, run_evaluation

    done = run_evaluation(_config(model, words or [], out, config))
    facts = {"path": str(done.path), "report": done.report.to_dict()}
    answer(facts, as_json, [*_lines(done.report), f"report    {done.path / PAGE}"])


def lock(
    model: Annotated[str, typer.Argument(help=f"{SUBJECT} It is not part of the plan.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK... [key=value]...", help="Tasks and settings, as coterie eval has them."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The file of the plan.")] = "eval-plan.json",
    config: Annotated[str | None, typer.Option(help="A YAML file of settings.")] = None,
    as_json: Json = False,
) -> None:
    """Lock what will be asked and how, before anything is scored; coterie eval ... plan=FILE follows it.

    With ledger=FILE the plan also says how many looks there were before it.
    """
    from coterie.recipes.evaluate import lock as lock_evaluation

    plan = lock_evaluation(_config(model, words, None, config), out)
    facts = plan.facts()
    lines = [f"{name}: {digest}" for name, digest in plan.tasks.items()]
    answer(
        {"path": out, "plan": facts.to_dict(), "tasks": plan.tasks},
        as_json,
        [*lines, f"plan {facts.digest}, locked {facts.locked_at}: {out}"],
    )


def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    from coterie.benchmarks import BENCHMARKS, PARTS, SUITES

    known = {**BENCHMARKS, **PARTS}
    facts = {
        "tasks": {name: one.says for name, one in known.items()},
        "suites": {name: list(parts) for name, parts in SUITES.items()},
    }
    width = max(map(len, [*known, *SUITES])) + 2
    lines = [f"{name:{width}}{one.says}" for name, one in known.items()]
    lines += [f"{name:{width}}all of {', '.join(parts)}" for name, parts in SUITES.items()]
    answer(facts, as_json, lines)


def items(
    task: Annotated[str, typer.Argument(help="A task of coterie eval list.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings of the task, such as n=200 seed=1.")
    ] = None,
    canary: Annotated[
        str, typer.Option(help="A secret that gives this copy a canary like no other copy's.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write the items of a task to a file, which is a task too and never changes.

    Its last line is a canary: a report on the file's items refuses a model that has learnt it.
    """
    from coterie.benchmarks import load_benchmark, write_items
    from coterie.config.base import apply_overrides

    benchmark = load_benchmark(task, **apply_overrides({}, settings or []))
    digest = write_items(benchmark, out, canary)
    count = len(benchmark.items())
    answer({"path": out, "items": count, "digest": digest}, as_json, [f"{count} items  {out}", digest])


def invariance(
    model: Annotated[str, typer.Argument(help="A directory, a hub id (owner/name) or a GGUF file.")],
    words: Annotated[
        list[str],
        typer.Argument(metavar="TASK... [key=value]...", help="Tasks, and settings such as exact=false."),
    ],
    count: Annotated[int, typer.Option("--items", help="Items of each task.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """Measure how far results depend on what else is in the batch; exits with 1 where they do.

    Items are asked alone, sorted, shuffled, next to long neighbours, and next to copies that load the same
    experts.
    """
    from coterie.evaluate.invariance import is_invariant
    from coterie.recipes.evaluate import invariance as measured

    found = measured(_config(model, words, None, None), count)
    lines = [
        f"{name}: {'the same bits' if is_invariant(facts) else 'DEPENDS ON THE BATCH'} at "
        f"{facts.compositions} compositions of {facts.items} items; log-probabilities differ by "
        f"{facts.max_abs_dlogprob:.2g}, {facts.flip_rate:.1%} of the answers change, the score by "
        f"{100 * facts.span:.1f} points, {facts.dropped_tokens} tokens dropped"
        for name, facts in found.items()
    ]
    answer({name: facts.to_dict() for name, facts in found.items()}, as_json, lines)
    if not all(map(is_invariant, found.values())):
        raise typer.Exit(1)


def report(folder: Folder, as_json: Json = False) -> None:
    """Draw the page of an evaluation again, from its report and records, which are checked."""
    from pathlib import Path

    from coterie.recipes.evaluate import PAGE, read_report
    from coterie.report.eval_page import write_eval_page

    found = read_report(Path(folder))
    page = found.path / PAGE
    write_eval_page(found.report, found.records, page)
    facts = {"path": str(page), "verdict": found.report.verdict, "flags": found.report.flags}
    answer(facts, as_json, [*_lines(found.report), f"report    {page}"])


def _config(model: str | None, words: list[str], out: str | None, path: str | None) -> EvalConfig:
    """The file's settings, and over them what the command says."""
    from coterie.config.base import apply_overrides, read_yaml
    from coterie.config.errors import ConfigError
    from coterie.config.evaluate import EvalConfig

    given: dict[str, Any] = read_yaml(path) if path is not None else {}
    settings = [word for word in ([model] if model else []) + words if _is_setting(word)]
    names = [word for word in words if not _is_setting(word)]
    if model is not None and not _is_setting(model):
        given["model"] = model
    if names:
        given["tasks"] = names
    if out is not None:
        given["out"] = out
    if not given.get("model") or not given.get("tasks"):
        missing = "a model" if not given.get("model") else "at least one task (coterie eval list)"
        raise ConfigError(f"eval: name {missing}: coterie eval MODEL TASK...")
    where = path or "eval"
    return EvalConfig.from_dict(apply_overrides(given, settings), where)


def _is_setting(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.replace(".", "").replace("_", "").replace("-", "").isalnum()


def _lines(report: EvalReport) -> Iterator[str]:
    """Flags above scores, as on the page."""
    from coterie.report.eval_page import score_words
    from coterie.results.contamination import CLASSES

    said = {f"{task.id}:{found.id}": found.says for task in report.tasks for found in task.detectors}
    yield f"{report.verdict:10}{report.subject.name}"
    if report.subject.weights_tensors is None:
        yield "flag      the server does not say which weights answered"
    for flag in report.flags:
        yield f"flag      {flag}: {said.get(flag, '')}"
    width = max(len(task.id) for task in report.tasks) + 2
    for task in report.tasks:
        reach = None if task.score.lower_is_better else task.score.mde80
        smallest = "" if reach is None else f", differences from {100 * reach:.1f} points"
        yield f"{task.id:{width}}{score_words(task)}, {task.n} items{smallest}"
        if task.splits is not None:
            parts = ((kind, getattr(task.splits, kind).items) for kind in CLASSES)
            yield f"{'':{width}}training data: {', '.join(f'{count} {kind}' for kind, count in parts)}"
        for name, value in task.extras.items():
            yield f"{'':{width}}{name} {value:.4g}"
    if report.average is not None:
        mean = report.average
        yield (
            f"{'average':{width}}{100 * mean.value:.1f} % ({100 * mean.low:.1f} to {100 * mean.high:.1f}) "
            "of the tasks, without safety and texts"
        )
    if report.looks is not None:
        looks = ", ".join(f"{name} {count}" for name, count in report.looks.looks.items())
        yield f"looks     {looks}; {report.looks.checkpoints} checkpoints"
