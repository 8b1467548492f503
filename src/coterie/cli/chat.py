"""`coterie generate`, `coterie chat` and `coterie run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.connect import connect, recommended
from coterie.cli.options import (
    REPLY,
    Adapter,
    Computed,
    Dtype,
    Effort,
    ExpertMemory,
    ExpertProfile,
    Experts,
    Json,
    KeyFile,
    Longest,
    MaxTokens,
    MinP,
    Model,
    Process,
    Repetition,
    Seed,
    Served,
    System,
    Target,
    Temperature,
    Template,
    ThinkBudget,
    TopP,
    VoteRuleName,
    Votes,
    Weights,
    expert_place,
)
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.agents.speaker import Kind, Turn


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Text to continue; '-' reads standard input.")],
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Keep the k most likely tokens; 0 keeps all. [default: the model's]",
            min=0,
            rich_help_panel=REPLY,
        ),
    ] = None,
    min_p: MinP = None,
    repetition_penalty: Repetition = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this string (repeatable).", rich_help_panel=REPLY)
    ] = None,
    max_tokens: MaxTokens = 128,
    seed: Seed = None,
    effort: Effort = None,
    think_budget: ThinkBudget = None,
    dtype: Dtype = "auto",
    quant: Weights = None,
    kernels: Computed = None,
    experts: Experts = "auto",
    expert_memory: ExpertMemory = None,
    expert_profile: ExpertProfile = None,
    as_json: Json = False,
) -> None:
    """Continue a text."""
    from coterie.infer.model import load
    from coterie.text.printable import shown

    given: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    given |= {"repetition_penalty": repetition_penalty, "stop": tuple(stop) if stop else None}
    given |= {"max_tokens": max_tokens, "seed": seed}
    text = _text_of(prompt)
    place = expert_place(experts, expert_memory, expert_profile)
    loaded = load(model, dtype, quant=quant or "stored", kernels=kernels or "auto", experts=place)
    params = replace(
        recommended(loaded), **{name: value for name, value in given.items() if value is not None}
    )
    wish = {"effort": effort, "think_budget": think_budget}
    if as_json:
        reply = loaded.generate(text, params, **wish)
        facts = {"text": reply.text, "ids": list(reply.ids), "logprobs": list(reply.logprobs)}
        answer(facts | {"finish_reason": reply.finish_reason}, True, ())
        return
    for piece in loaded.stream(text, params, **wish):
        print(shown(piece), end="", flush=True)
    print()


def chat(
    model: Target,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: Longest = None,
    seed: Seed = None,
    effort: Effort = None,
    think_budget: ThinkBudget = None,
    votes: Votes = None,
    vote_rule: VoteRuleName = None,
    dtype: Dtype = "auto",
    quant: Weights = None,
    kernels: Computed = None,
    experts: Experts = "auto",
    expert_memory: ExpertMemory = None,
    expert_profile: ExpertProfile = None,
    adapter: Adapter = None,
    template: Template = None,
    api_key_file: KeyFile = None,
    served: Served = None,
) -> None:
    """Talk to a model or a server in the terminal. /help lists commands; an empty line or Ctrl-D ends."""
    from coterie.agents.speaker import Sampling
    from coterie.agents.terminal import Terminal
    from coterie.text.printable import printable

    place = expert_place(experts, expert_memory, expert_profile)
    sampling = Sampling(temperature, top_p, max_tokens, seed, effort, think_budget, votes, vote_rule)
    with connect(model, dtype, api_key_file, served, template, quant, adapter, kernels, place) as speaker:
        interactive = sys.stdin.isatty()
        if interactive:
            print(
                f"{printable(speaker.name)}. /help lists the commands; an empty line or Ctrl-D ends.",
                file=sys.stderr,
            )
        Terminal(speaker, system, sampling, interactive).run()


def run(
    model: Target,
    prompt: Annotated[str, typer.Argument(help="What to say; '-' reads standard input.")],
    system: System = None,
    json_schema: Annotated[
        str | None,
        typer.Option(help="File with a JSON schema that the answer must satisfy.", rich_help_panel=REPLY),
    ] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: Longest = None,
    seed: Seed = None,
    effort: Effort = None,
    think_budget: ThinkBudget = None,
    votes: Votes = None,
    vote_rule: VoteRuleName = None,
    process: Process = False,
    dtype: Dtype = "auto",
    quant: Weights = None,
    kernels: Computed = None,
    experts: Experts = "auto",
    expert_memory: ExpertMemory = None,
    expert_profile: ExpertProfile = None,
    template: Template = None,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Get one answer to one message, from a model or a server.

    With --json-schema, the answer is checked against the schema.
    """
    from coterie.agents.speaker import Sampling, note_ignored, turn_lines
    from coterie.sandbox.schemas import read_schema
    from coterie.text.chat import Message

    schema = read_schema(Path(json_schema)) if json_schema else None
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", _text_of(prompt)))
    sampling = Sampling(
        temperature, top_p, max_tokens, seed, effort, think_budget, votes, vote_rule, process or None
    )
    place = expert_place(experts, expert_memory, expert_profile)
    with connect(model, dtype, api_key_file, served, template, quant, None, kernels, place) as speaker:
        on_piece = None if as_json else _show
        turn = speaker.say(messages, sampling=sampling, schema=schema, on_piece=on_piece)
    if not as_json:
        print("", *turn_lines(turn), sep="\n")
    note_ignored(turn)
    if schema is not None:
        _check(turn, schema, max_tokens)
    if as_json:
        facts = {key: value for key, value in asdict(turn).items() if key not in ("message", "broken")}
        answer({"message": turn.message.to_dict()} | facts, True, (), ensure_ascii=False)


def _check(turn: Turn, schema: Mapping[str, Any], max_tokens: int | None) -> None:
    """Check a reply against the schema. Errors: `CoterieError`."""
    from coterie.config import CoterieError
    from coterie.sandbox.schemas import check_text

    if turn.finish_reason == "length":
        more = "raise --max-tokens" if max_tokens else "it filled the model's context"
        raise CoterieError(f"the reply was cut off inside the JSON: {more}")
    check_text(turn.message.text, schema)


def _show(kind: Kind, piece: str) -> None:
    from coterie.text.printable import shown

    if kind == "text":
        print(shown(piece), end="", flush=True)


def _text_of(prompt: str) -> str:
    """The prompt itself, or standard input for '-'.

    Errors: `DataError` for empty input, or bytes that are not UTF-8.
    """
    from coterie.config import DataError
    from coterie.config.json_text import encodable

    if prompt != "-":
        if not encodable(prompt):
            raise DataError("the prompt is not UTF-8 text; pass it on standard input and '-' as the prompt")
        return prompt
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text; give text as the prompt") from None
    if not text:
        raise DataError("standard input is empty; give some text, or the prompt as an argument")
    return text
