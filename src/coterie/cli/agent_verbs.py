"""The verbs of the client's side."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli.options import (
    Dtype,
    Json,
    KeyFile,
    Longest,
    Model,
    Seed,
    Served,
    System,
    Target,
    Temperature,
    TopP,
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(short_help="Talk to a model or a server in the terminal.")(chat)
    app.command(short_help="One answer to one message, from a model or a server.")(run)
    app.command(short_help="Let a model do a task step by step with tools.")(agent)
    app.command(short_help="Offer a model as an MCP server on standard input and output.")(mcp)
    app.command(
        "export-serve", short_help="Write what vLLM, SGLang, llama.cpp or Ollama need to serve a model."
    )(export_serve)
    app.command(short_help="Put load on a server and time its replies.")(bench)
    app.command(short_help="What this machine offers; or, with a URL, what a server keeps to.")(doctor)


def chat(
    model: Target,
    system: System = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: Longest = None,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
) -> None:
    """Talk to a model or a server in the terminal; /help lists commands, an empty line or Ctrl-D ends."""
    from coterie.cli.talk import chat as run

    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    run(model, system, sampling, {"dtype": dtype, "key_file": api_key_file, "served": served})


def run(
    model: Target,
    prompt: Annotated[str, typer.Argument(help="What to say; '-' reads standard input.")],
    system: System = None,
    json_schema: Annotated[
        str | None, typer.Option(help="File with a JSON schema that the answer must keep.")
    ] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: Longest = None,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """One answer to one message, from a model or a server."""
    from coterie.cli.talk import run as answer

    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    opening = {"dtype": dtype, "key_file": api_key_file, "served": served}
    answer(model, prompt, system, sampling, opening, json_schema, as_json)


def agent(
    model: Target,
    task: Annotated[str | None, typer.Argument(help="What is to be done.")] = None,
    folder: Annotated[
        str | None, typer.Option("--dir", help="Folder whose files it may read, list and write.")
    ] = None,
    python: Annotated[bool, typer.Option("--python/--no-python", help="Python in the sandbox.")] = True,
    allow_http: Annotated[
        list[str] | None, typer.Option(help="Host it may fetch pages of (may be given again).")
    ] = None,
    mcp: Annotated[
        str | None, typer.Option(help="File with MCP servers (mcpServers) whose tools it may use.")
    ] = None,
    approve: Annotated[
        str, typer.Option(help="Calls that write: ask, all or none; without a terminal ask is none.")
    ] = "ask",
    max_steps: Annotated[int, typer.Option(help="Replies it may give.", min=1)] = 20,
    budget_tokens: Annotated[int, typer.Option(help="Tokens read and written in all.", min=1)] = 200_000,
    budget_seconds: Annotated[float, typer.Option(help="Seconds in all.", min=1)] = 900,
    tool_seconds: Annotated[float, typer.Option(help="Seconds for one call of a tool.", min=0.1)] = 30,
    transcript: Annotated[
        str | None, typer.Option(help="File for the conversation: tuning data, and to resume.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a transcript (TASK, if given, is said next).")
    ] = None,
    system: System = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: Longest = None,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Let a model do a task step by step with tools.

    The exit status is 0 for an answer, 3 when a budget ended it, 4 for a loop, 5 when it said nothing, 130
    for Ctrl-C.
    """
    from coterie.cli.agent import agent as work

    opening = {"dtype": dtype, "key_file": api_key_file, "served": served}
    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    budget = {
        "steps": max_steps,
        "tokens": budget_tokens,
        "seconds": budget_seconds,
        "tool_seconds": tool_seconds,
    }
    offered = {"folder": folder, "python": python, "hosts": allow_http or [], "mcp": mcp}
    files = {"transcript": transcript, "resume": resume, "system": system}
    sys.exit(work(model, task, opening, sampling, budget, offered, approve, files, as_json))


def mcp(model: Model, dtype: Dtype = "float32") -> None:
    """Offer a model as an MCP server on standard input and output: tools chat, score and route_explain."""
    from coterie.cli.agent import mcp as serve

    serve(model, dtype)


def bench(
    url: Annotated[str, typer.Argument(help="A server's http address.")],
    clients: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 8,
    requests: Annotated[int, typer.Option(help="Requests in all.", min=1)] = 32,
    prompt_words: Annotated[int, typer.Option(help="Words of each prompt.", min=1)] = 64,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.", min=1)] = 64,
    shared: Annotated[bool, typer.Option(help="Let all prompts begin alike.")] = False,
    ttft: Annotated[float, typer.Option(help="Seconds to the first token of a good reply.", min=0)] = 2.0,
    tpot: Annotated[float, typer.Option(help="Seconds for each further token of a good reply.", min=0)] = 0.2,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Put load on any OpenAI-compatible server: time to first token, time per token, goodput.

    The exit status is 1 when a request failed.
    """
    from coterie.cli.servers import bench as run

    load = {"clients": clients, "requests": requests, "prompt_words": prompt_words, "max_tokens": max_tokens}
    sys.exit(run(url, load | {"shared": shared, "ttft": ttft, "tpot": tpot}, api_key_file, served, as_json))


def doctor(
    url: Annotated[str | None, typer.Argument(help="A server's http address; none: this machine.")] = None,
    only: Annotated[str | None, typer.Option(help="Only checks whose area or name holds this.")] = None,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """What this machine offers: processor, precision, memory, libraries. With a URL, grade that server.

    Any OpenAI-compatible server can be graded: fields honoured or refused, errors, streams, tools, JSON,
    limits, hanging up. The exit status is 1 when a promise is broken.
    """
    if url is None:
        from coterie.cli.show import doctor as machine

        machine(as_json)
        return
    from coterie.cli.servers import doctor as server

    sys.exit(server(url, only, api_key_file, served, as_json))


def export_serve(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="Directory to write; must not exist.")],
    engine: Annotated[str, typer.Option("--for", help="vllm, sglang, llama.cpp or ollama.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of an adapter to serve beside it (may be given again)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model (default: its directory).")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="Of a GGUF file: f32, f16, bf16, q8_0, q4_0 or mxfp4 (default: q8_0).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what another server needs: weights, template, adapters, a command to start it and one to prove
    it.

    What the server cannot take as it is, is refused.
    """
    from coterie.cli.servers import export_serve as run

    run(model, out, engine, adapter or [], name, quant, as_json)
