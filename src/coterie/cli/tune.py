"""`coterie tune`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import TEMPLATES, Json
from coterie.cli.output import answer_run

if TYPE_CHECKING:
    from coterie.config.tune import TuneConfig

WHAT, HOW, MEASURE = "What is trained", "How it is trained", "What is measured"

Method = Annotated[
    str | None, typer.Option(help="lora, qlora, dora, full, esft or router.", rich_help_panel=WHAT)
]
Train = Annotated[
    str | None,
    typer.Option(
        help="Each group as lora, full or freeze: attention=lora,experts=lora,shared=lora,router=freeze,...",
        rich_help_panel=WHAT,
    ),
]
Experts = Annotated[
    str | None,
    typer.Option(help="Train only these experts (a file of coterie select).", rich_help_panel=WHAT),
]
Router = Annotated[
    str | None,
    typer.Option(help="Routers: freeze, full, lora, bias or dense-grad.", rich_help_panel=WHAT),
]
Rank = Annotated[int | None, typer.Option(help="Rank of the factors.", min=1, rich_help_panel=WHAT)]
Objective = Annotated[
    str | None,
    typer.Option(
        help="sft, pretrain, dpo, ipo, dpo-norm, orpo or kto (default: what the data is for).",
        rich_help_panel=HOW,
    ),
]
Epochs = Annotated[float | None, typer.Option(help="Passes over the examples.", rich_help_panel=HOW)]
Steps = Annotated[
    int | None, typer.Option(help="Optimiser steps instead of epochs.", min=1, rich_help_panel=HOW)
]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate (default: by method and size).", rich_help_panel=HOW),
]
Evaluation = Annotated[
    str | None,
    typer.Option("--eval", help="Held-out share of the data, or a file.", rich_help_panel=MEASURE),
]
MaxForgetting = Annotated[
    float | None,
    typer.Option(
        help="Bits per byte that other text may lose; a run that loses more ends without a result.",
        rich_help_panel=MEASURE,
    ),
]


def tune(
    model: Annotated[
        str, typer.Argument(help="A directory, GGUF file or hub id, or an adapter to train further.")
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            help="Files, directories (also of plain text), hf://owner/name, 'starter', 'tools' or '-'; and "
            "settings as key=value."
        ),
    ],
    out: Annotated[str | None, typer.Option("--out", "-o", help="Where to write.")] = None,
    method: Method = None,
    train: Train = None,
    experts: Experts = None,
    router: Router = None,
    rank: Rank = None,
    objective: Objective = None,
    epochs: Epochs = None,
    steps: Steps = None,
    lr: LearningRate = None,
    evaluation: Evaluation = None,
    max_forgetting: MaxForgetting = None,
    template: Annotated[
        str | None, typer.Option(help=f"Another chat template: a file, or {TEMPLATES}.", rich_help_panel=HOW)
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of settings; options override it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained and what it would cost, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tune a model, dense or mixture of experts, on your examples. The same command resumes a stopped run.

    Prints what is trained, stops when a group you asked for gets no gradient, and proves the written result.
    """
    from coterie.config.tune import parse_train
    from coterie.recipes.tune import run_tune

    given: dict[str, Any] = {
        "model": model,
        "out": out,
        "method": method,
        "experts": experts,
        "objective": objective,
    }
    given |= {"router": router, "rank": rank, "epochs": epochs, "steps": steps, "lr": lr}
    given |= {"max_forgetting": max_forgetting, "template": template}
    given |= {"train": None if train is None else parse_train(train)}
    given |= {"eval": None if evaluation is None else _share(evaluation)}
    chosen = _settings(data, {key: value for key, value in given.items() if value is not None}, config)
    result = run_tune(chosen, shlex.join(["coterie", *sys.argv[1:]]), dry_run)
    answer_run(result, as_json, [str(result.path)] if result.path is not None else [])


def _settings(arguments: list[str], given: Mapping[str, Any], file: str | None) -> TuneConfig:
    """The settings of the YAML file, then the options, then `key=value` arguments; the later one counts.

    An argument with `=` is a setting unless it names a file. Errors: `ConfigError`.
    """
    from coterie.config.base import read_yaml
    from coterie.config.errors import ConfigError
    from coterie.config.tune import TuneConfig, merge_sources

    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    sources = [text for text in arguments if text not in overrides]
    options = dict(given) | ({"data": sources} if sources else {})
    try:
        settings = merge_sources(read_yaml(file) if file is not None else {}, options, overrides)
    except ValueError as error:
        raise ConfigError(f"{file or 'tune'}: {error}") from None
    if "data" not in settings:
        raise ConfigError("tune: no examples given; name a file after the model, 'starter' or 'tools'")
    return TuneConfig.from_dict(settings, file or "tune")


def _share(text: str) -> float | str:
    """A share of the data, or else the name of a file."""
    try:
        return float(text)
    except ValueError:
        return text
