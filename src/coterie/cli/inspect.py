"""`coterie inspect`: print what a model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie.cli.options import Described, Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.checkpoints.inspect import DirectoryFacts, GgufFileFacts, Inspection
    from coterie.plan.counts import Counts
    from coterie.plan.published import Published


def inspect(
    model: Described,
    as_json: Json = False,
) -> None:
    """Show a model's architecture, parameters, operations, cache, memory, tokenizer and oddities.

    A config.json is enough. Weights are not read; where there are any, their headers are.
    """
    from coterie.checkpoints.inspect import inspect_model

    found = inspect_model(model)
    answer(found.to_dict(), as_json, _lines(found))


def _lines(found: Inspection) -> list[str]:
    """The facts for people."""
    model, counts = found.model, found.model.counts
    result = [f"{found.name}: {model.architecture}"]
    result += [f"  {line}" for line in model.layers]
    result.append(
        f"parameters   total {counts.total:,}, in experts {counts.experts:,} ({model.experts_share:.0%})"
    )
    result.append(
        f"active       {counts.active_all:,} with embedding and head, "
        f"{counts.active_head:,} with head, {counts.active_core:,} with neither"
    )
    outside = {
        "for multi-token prediction": counts.mtp,
        "of the image encoder": model.vision,
        "selection biases": model.selection_bias,
    }
    extra = [f"{count:,} {words}" for words, count in outside.items() if count]
    result += [f"besides      {', '.join(extra)}; {model.everything:,} in all"] if extra else []
    if found.published is not None:
        result.append(_published_line(found.published, counts))
    result.append(
        f"operations   {model.flops_per_token / 1e6:,.1f} MFLOP per token "
        f"(forward, context {model.context:,})"
    )
    grows = model.kv_bytes_per_token_beyond_windows
    growth = "" if grows == model.kv_bytes_per_token else f", {grows:,} beyond every window"
    sizes = ", ".join(f"{_size(size)} at {length:,}" for length, size in model.kv_bytes.items())
    result.append(f"cache        {model.kv_bytes_per_token:,} bytes per token in bfloat16{growth}; {sizes}")
    result += [f"memory       {_size(size)} {phase}" for phase, size in model.memory_bytes.items()]
    result.append(f"decoding     {found.kernels}")
    if found.directory is not None:
        result += _directory_lines(found.directory)
    return result + [f"unlike most  {line}" for line in found.oddities]


def _published_line(published: Published, counts: Counts) -> str:
    kinds = {
        "with embedding and head": counts.active_all,
        "with head": counts.active_head,
        "with neither": counts.active_core,
    }
    nearest = min(kinds, key=lambda kind: abs(kinds[kind] - published.active))
    note = f"; {published.note}" if published.note else ""
    return (
        f"published    {_short(published.total)} total, {_short(published.active)} active (nearest: "
        f"{nearest}); source: {published.source}{note}"
    )


def _directory_lines(directory: DirectoryFacts) -> list[str]:
    stored, tokenizer = directory.stored, directory.tokenizer
    if stored.bytes_by_type is None:
        result = [f"on disk      {stored.problem}"]
    else:
        types = ", ".join(f"{_size(size)} {kind}" for kind, size in stored.bytes_by_type.items())
        probes = f"; {stored.probes} probes" if stored.probes else "; no probes"
        of_ours = stored.committed or directory.gguf is not None
        result = [f"on disk      {types}{probes}{'' if of_ours else '; no manifest of coterie'}"]
    result += [f"held         {group} in {' and '.join(forms)}" for group, forms in stored.classes.items()]
    if directory.gguf is not None:
        result.append(_gguf_line(directory.gguf))
    if directory.origin is not None:
        result.append(f"pulled       {directory.origin.repo} of the hub, revision {directory.origin.commit}")
    sampling = ", ".join(f"{key} {value}" for key, value in directory.sampling.items())
    result += [f"sampling     {sampling} (generation_config.json)"] if sampling else []
    result += [f"note         {line}" for line in directory.notes]
    if tokenizer is None:
        return [*result, "tokenizer    none"]
    chat = "with a chat template" if tokenizer.chat_template else "no chat template"
    unused = f", {tokenizer.unused_rows:,} rows of the embedding unused" if tokenizer.unused_rows else ""
    stops = (
        " or ".join(f"{stop} ({', '.join(files)})" for stop, files in tokenizer.stops.items()) or "nothing"
    )
    return [
        *result,
        f"tokenizer    {tokenizer.vocabulary:,} tokens, {tokenizer.special_tokens} of them special, "
        f"replies end at {stops}, {chat}{unused}",
    ]


def _gguf_line(gguf: GgufFileFacts) -> str:
    tensors = ", ".join(f"{count} {kind}" for kind, count in gguf.tensors.items())
    parts = f", in {gguf.files} files" if gguf.files > 1 else ""
    named = f" '{gguf.name}'" if gguf.name else ""
    split = f"; text split as {gguf.split}" if gguf.split else ""
    return f"GGUF        {named} architecture {gguf.architecture}{parts}; tensors {tensors}{split}"


def _size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _short(count: int) -> str:
    billions = f"{count / 1e9:.2f}".rstrip("0").rstrip(".")
    return f"{billions}B"
