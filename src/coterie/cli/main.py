"""The command line: what each verb takes. A verb's module is imported only when the verb is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli import (
    adapter_verbs,
    agent_verbs,
    expert_verbs,
    model_verbs,
    plan_verbs,
    serve_verbs,
    surgery_verbs,
    tune_verbs,
)
from coterie.cli.options import Dtype, Json, MaxTokens, Model, Seed, Sources, Temperature, TopP

app = typer.Typer(
    name="coterie",
    help="Train, compare, inspect and talk to dense and mixture-of-experts language models.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Look at training text before using it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")


@app.command(short_help="Train an MoE and its dense twin, compare them, write a report.")
def quickstart(
    minutes: Annotated[float, typer.Option(help="Time the whole run may take.", min=0.5)] = 8.0,
    data: Annotated[str | None, typer.Option(help="Your own text instead of the embedded corpus.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and generated text.", min=0)] = 0,
    out: Annotated[str, typer.Option(help="Where to write.")] = "runs/quickstart",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: PyTorch's choice).", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a mixture of experts and its dense twin on the same text, compare them, write a report."""
    from coterie.cli.quickstart import run

    run(minutes, data, seed, out, threads, as_json)


@app.command(short_help="Train a model, dense or mixture of experts; resumable.")
def train(
    config: Annotated[str, typer.Argument(help="A YAML file with the settings of the run (see configs/).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example optimiser.lr=0.001")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model, dense or mixture of experts; run it again to go on where it stopped."""
    from coterie.cli.train import run

    run(config, overrides or [], as_json)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Text to go on from; '-' reads standard input.")],
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.", min=0)] = 0,
    min_p: Annotated[
        float, typer.Option(help="Drop tokens below this share of the best one's probability.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 makes repeated tokens less likely.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this string (may be given again).")
    ] = None,
    max_tokens: MaxTokens = 128,
    seed: Seed = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Continue a text."""
    from coterie.cli.talk import generate as run

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "max_tokens": max_tokens,
        "seed": seed,
    }
    run(model, prompt, sampling, dtype, as_json)


@app.command(short_help="Draw a quickstart's report again from its records.")
def report(
    run_dir: Annotated[str, typer.Argument(help="A quickstart's directory.")] = "runs/quickstart",
    as_json: Json = False,
) -> None:
    """Draw a quickstart's report again from its records."""
    from coterie.cli.show import report as run

    run(run_dir, as_json)


@data_app.command("card", short_help="Count documents, bytes and slices, and what would be dropped.")
def data_card(sources: Sources, as_json: Json = False) -> None:
    """Count documents, bytes and slices, and what would be dropped and why."""
    from coterie.cli.data import card

    card(sources, as_json)


@data_app.command("lint", short_help="Find what is wrong in training text or tuning examples.")
def data_lint(
    sources: Sources,
    model: Annotated[
        str | None, typer.Option(help="Its tokenizer and chat template check what is learnt.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Another chat template: a shipped one, or a file.")
    ] = None,
    row_length: Annotated[int, typer.Option(help="Most tokens that an example may take.", min=8)] = 4096,
    show: Annotated[int, typer.Option(help="Show the tokens of the first examples.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Find what is wrong in training text or tuning examples, with file and line.

    Conversations, preferences and other examples are recognised by their content. With --model: lengths,
    packing, the share of tokens that are learnt, templates that change earlier turns, tool calls that cannot
    be read back.
    """
    from coterie.cli.data import lint

    lint(sources, model, template, row_length, show, as_json)


model_verbs.register(app)
adapter_verbs.register(app)
expert_verbs.register(app)
surgery_verbs.register(app)
plan_verbs.register(app)
serve_verbs.register(app)
tune_verbs.register(app)
agent_verbs.register(app)


def main() -> None:
    """Run the command line; errors meant for users are one line on standard error and a non-zero exit."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
    except Exception as error:
        # Imported here: the settings behind it would double the start-up time of --help.
        from coterie.config.errors import CoterieError

        if isinstance(error, CoterieError):
            message, code = " ".join(str(error).split()), error.exit_code
        elif isinstance(error, OSError) and error.strerror:
            message, code = f"{error.filename or 'system'}: {error.strerror}", 1
        else:
            raise
        print(f"coterie: {message}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
