"""`coterie train distill`: learn from a teacher, next to a control that learns without."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer_run

if TYPE_CHECKING:
    from coterie.config.distill import DistillConfig

WHO, WHAT, HOW = "Student and teacher", "What is learnt from", "How it is learnt"
OWN = "On the student's own replies"
Student = Annotated[
    str | None,
    typer.Option(
        help="A directory or hub id, or a YAML or JSON file that describes a fresh model.",
        rich_help_panel=WHO,
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        "--student-layers", help="Start from this number of the student's layers.", min=1, rich_help_panel=WHO
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="A directory, GGUF file, hub id or server, with the student's tokenizer.", rich_help_panel=WHO
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(help="Text: files, directories, 'primer' or hf://owner/name.", rich_help_panel=WHAT),
]
Examples = Annotated[
    list[str] | None,
    typer.Option(help="Tuning examples instead of text, as coterie tune reads them.", rich_help_panel=WHAT),
]
Mode = Annotated[
    str | None,
    typer.Option(help="offline (keeps the teacher's answers) or online.", rich_help_panel=HOW),
]
Targets = Annotated[
    str | None,
    typer.Option(help="What is kept of each token: topk, sampled or full.", rich_help_panel=HOW),
]
Cache = Annotated[
    str | None, typer.Option(help="Where the answers are kept, for several students.", rich_help_panel=HOW)
]
Budget = Annotated[
    int | None,
    typer.Option("--steps", help="Optimiser steps (default: every row once).", min=1, rich_help_panel=HOW),
]
Control = Annotated[
    bool | None,
    typer.Option(
        "--control/--no-control",
        help="Train the same student without the teacher, and compare (default).",
        rich_help_panel=HOW,
    ),
]
OnPolicy = Annotated[
    bool,
    typer.Option("--on-policy", help="Learn from what the student itself writes.", rich_help_panel=OWN),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="The task whose problems are the prompts (default: what --examples ask).",
        rich_help_panel=OWN,
    ),
]


def distill(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, such as weighting.kind=const optimiser.lr=0.001.")
    ] = None,
    student: Student = None,
    student_layers: Layers = None,
    teacher: Teacher = None,
    data: Data = None,
    examples: Examples = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Directory of the run.")] = None,
    mode: Mode = None,
    targets: Targets = None,
    cache: Cache = None,
    steps: Budget = None,
    control: Control = None,
    on_policy: OnPolicy = False,
    task: Task = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of settings; options override it.")] = None,
    as_json: Json = False,
) -> None:
    """Distil a teacher into a student, dense or mixture of experts; the same command resumes.

    A control learns from the same rows without the teacher, and the verdict compares the two.
    """
    from coterie.cli.on_policy import on_policy_settings
    from coterie.config import ConfigError
    from coterie.recipes.distill import DistillResult, run_distill
    from coterie.recipes.on_policy import OnPolicyResult, run_on_policy

    hint = shlex.join(["coterie", *sys.argv[1:]])
    options: dict[str, Any] = {"teacher": teacher, "out": out, "steps": steps}
    options |= {"control": control, "examples": examples or None}
    result: DistillResult | OnPolicyResult
    if on_policy:
        others = {"--student-layers": student_layers, "--data": data, "--mode": mode, "--cache": cache}
        options |= {"student": student, "task": task}
        asked = on_policy_settings(config, options, others | {"--targets": targets}, overrides or [])
        result = run_on_policy(asked, hint)
    else:
        if task is not None:
            raise ConfigError("--task gives prompts to reply to, which needs --on-policy")
        options |= {"mode": mode, "cache": cache}
        options |= {"student": student, "student.layers": student_layers, "targets.kind": targets}
        options |= {"data.sources": data or None}
        result = run_distill(_settings(config, options, overrides or []), hint)
    answer_run(result, as_json, result.lines())


def _settings(file: str | None, options: Mapping[str, Any], overrides: list[str]) -> DistillConfig:
    """The settings of the YAML file, then the options, then `key=value`; the later one counts."""
    from coterie.config.base import apply_overrides, read_yaml
    from coterie.config.distill import DistillConfig, student_settings, written_out

    settings = {} if file is None else written_out(read_yaml(file))
    for name, value in options.items():
        if value is None:
            continue
        holder, _, inner = name.rpartition(".")
        if name == "student":
            value = student_settings(value)
        if holder:
            settings[holder] = dict(settings.get(holder) or {})
        (settings[holder] if holder else settings)[inner] = value
    return DistillConfig.from_dict(apply_overrides(settings, overrides), file or "distill")
