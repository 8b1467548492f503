"""Options and arguments that several verbs share. Imports nothing heavy: `--help` stays fast."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coterie.config.expert_place import ExpertPlace

# Sections of --help (see cli/help.py).
REPLY = "Reply"
CONNECTION = "Model or server"
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Model = Annotated[
    str, typer.Argument(help="A directory, a GGUF file or a hub id (owner/name, owner/name@revision).")
]
Described = Annotated[
    str,
    typer.Argument(
        help="A directory, a GGUF file, a hub id (owner/name) or a published name such as llama-4-scout."
    ),
]
Sources = Annotated[list[str], typer.Argument(help="Files, directories, 'primer' or hf://owner/name.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Where to write.")]
Quant = Annotated[
    str | None,
    typer.Option(help="GGUF type: f16, bf16, q8_0, q4_k_m or another of convert's (default: q8_0)."),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="0 always takes the most likely token. [default: the model's, or else 0.7]",
        min=0,
        rich_help_panel=REPLY,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the fewest tokens that hold this share of the probability. [default: the model's, "
        "or else 0.95]",
        rich_help_panel=REPLY,
    ),
]
MaxTokens = Annotated[int, typer.Option(help="Longest reply, in tokens.", min=1, rich_help_panel=REPLY)]
Longest = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", help="Longest reply, in tokens (default: what fits).", min=1, rich_help_panel=REPLY
    ),
]
Votes = Annotated[
    int | None,
    typer.Option(
        help="Sample this many replies, show the likeliest one with the answer of most, and the table.",
        min=2,
        max=64,
        rich_help_panel=REPLY,
    ),
]
VoteRuleName = Annotated[
    str | None,
    typer.Option(
        "--vote-rule",
        help="What counts as the answer of a reply: answer (its line 'Answer: ...'), boxed, number (the last "
        "one), text (all of it), or auto (the first of these that is there; the default).",
        rich_help_panel=REPLY,
    ),
]
Process = Annotated[
    bool,
    typer.Option(
        "--process",
        help="Print the steps of the reply with tokens, log-probabilities and checked sums.",
        rich_help_panel=REPLY,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        help="Drop tokens below this share of the best one's probability. [default: the model's]",
        rich_help_panel=REPLY,
    ),
]
Repetition = Annotated[
    float | None,
    typer.Option(
        help="Above 1 makes repeated tokens less likely. [default: the model's]", rich_help_panel=REPLY
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort",
        help="How much to reason: none, minimal, low, medium, high, xhigh or max (default: the model's own).",
        rich_help_panel=REPLY,
    ),
]
ThinkBudget = Annotated[
    int | None,
    typer.Option(
        "--think-budget",
        help="Most tokens of reasoning; then the model must answer.",
        min=0,
        rich_help_panel=REPLY,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same reply.", rich_help_panel=REPLY)]
System = Annotated[str | None, typer.Option(help="System message.", rich_help_panel=REPLY)]
# `tests/cli/test_options.py` compares these names with the shipped files.
TEMPLATES = "chatml, deepseek_r1, deepseek_v3, gpt_oss, llama3, llama4, mistral, olmoe or qwen3"
Template = Annotated[
    str | None,
    typer.Option(help=f"Another chat template: a file, or {TEMPLATES}.", rich_help_panel=CONNECTION),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        help="An adapter or expert patch to apply: a directory or a hub id.", rich_help_panel=CONNECTION
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16. auto: bfloat16 for models stored in 16 bits or less where "
        "the processor is fast in it, else float32.",
        rich_help_panel=CONNECTION,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--quant",
        help="What weights are held in: int8, int4, none (all as --dtype), or by class, such as "
        "experts=int4,attention=bf16,ffn=int8,head=int8 (default: stored, as the files have them).",
        rich_help_panel=CONNECTION,
    ),
]
Computed = Annotated[
    str | None,
    typer.Option(
        "--kernels",
        help="What replies are computed on: native, torch, or auto (what is faster; the default).",
        rich_help_panel=CONNECTION,
    ),
]
Experts = Annotated[
    str,
    typer.Option(
        help="Where routed experts are: memory, disk (read when they are chosen), or auto (disk where the "
        "weights do not fit into memory).",
        rich_help_panel=CONNECTION,
    ),
]
ExpertMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory for experts that are on disk, such as 4GB (default: what the rest leaves).",
        rich_help_panel=CONNECTION,
    ),
]
ExpertProfile = Annotated[
    str | None,
    typer.Option(
        help="A file of `coterie profile`: the busiest experts are read at the start.",
        rich_help_panel=CONNECTION,
    ),
]
Target = Annotated[
    str, typer.Argument(help="A directory, GGUF file, hub id (owner/name) or a server's http address.")
]
KeyFile = Annotated[
    str | None,
    typer.Option(
        "--api-key-file",
        help="File with the server's key (default: COTERIE_API_KEY, or no key).",
        rich_help_panel=CONNECTION,
    ),
]
Served = Annotated[
    str | None,
    typer.Option(help="Which of a server's models (default: its first).", rich_help_panel=CONNECTION),
]


def named_paths(given: list[str], option: str) -> dict[str, str]:
    """`{name: path}` of repeated `NAME=PATH` options.

    Errors: `ConfigError` for another form or a name that is given twice.
    """
    # coterie.config needs pydantic, which would double the start-up time of --help.
    from coterie.config import ConfigError

    found: dict[str, str] = {}
    for text in given:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ConfigError(f"{option} {text}: write NAME=PATH")
        if name in found:
            raise ConfigError(f"{option} {text}: the name {name} is given more than once")
        found[name] = path
    return found


def parse_bytes(text: str, option: str) -> int:
    """Bytes (decimal) of a size such as `24GB` or `1.5G`. Errors: `ConfigError`, naming `option`."""
    from coterie.config import ConfigError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size == 0:
        raise ConfigError(f"{option} {text}: give a size such as 24GB or 800MB")
    return size


def expert_place(
    experts: str, room: str | None, profile: str | None, memory: int | None = None
) -> ExpertPlace:
    """What --experts, --expert-memory and --expert-profile say; `memory`: bytes for the whole model.

    Errors: `ConfigError` for another word or size, and for a file that is no profile.
    """
    from coterie.config.expert_place import ExpertPlace

    uses = None
    if profile is not None:
        from coterie.evaluate.routing.profile import Profile

        uses = Profile.from_file(profile).counts
    limit = None if room is None else parse_bytes(room, "--expert-memory")
    return ExpertPlace.parse(experts, limit, memory, uses)
