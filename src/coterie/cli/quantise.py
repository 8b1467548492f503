"""`coterie quantise`: write a model in fewer bits as a directory, and print its receipt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.recipes.quantise import QuantisationReceipt


def quantise(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="The directory to write. Must be new.")],
    quant: Annotated[
        str,
        typer.Option(
            help="int8, int4, or by class, such as experts=int4,attention=int8,head=int8; block=128 is how "
            "many numbers share a scale (64 where it is not given).",
        ),
    ] = "int4,attention=int8,block=32",
    data: Annotated[
        list[str] | None, typer.Option(help="Text to measure perplexity on [default: primer].")
    ] = None,
    outputs: Annotated[
        bool,
        typer.Option(help="Measure the model before and after (needs memory for the model as it is stored)."),
    ] = True,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            help="Text whose activations decide how weights are rounded; primer is the built-in corpus. More "
            "exact; needs memory for the model as it is stored [default: none, each weight by itself].",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model in 8 or 4 bits for coterie, transformers and vLLM, with its losses measured.

    The layout is compressed-tensors' (pack-quantized, weights only). One matrix is in memory at a time. Every
    tensor is read back.
    """
    from coterie.config import Precision
    from coterie.recipes.quantise import quantise_checkpoint

    texts, calibration = tuple(data or ("primer",)), tuple(calibrate or ())
    receipt = quantise_checkpoint(model, out, Precision.parse(quant), texts, outputs, calibration)
    answer(receipt.to_dict(), as_json, _lines(receipt))


def _lines(receipt: QuantisationReceipt) -> Iterator[str]:
    from coterie.checkpoints.convert import RECEIPT
    from coterie.report.words import size

    yield f"{receipt.out}: {receipt.source} in {receipt.quant}"
    before, after = receipt.bytes.before, receipt.bytes.after
    yield f"weights           {size(before)} -> {size(after)} on disk ({after / before:.0%})"
    yield from (
        f"held              {group} in {' and '.join(forms)}" for group, forms in receipt.classes.items()
    )
    yield (
        f"rounded           {receipt.rounding['matrices']:,} matrices, by "
        f"{receipt.rounding['relative_rms']:.2%} (root mean square)"
    )
    if receipt.calibration is not None:
        made, data = receipt.calibration, ", ".join(receipt.calibration["data"])
        yield (
            f"calibrated        {made['matrices']:,} matrices on {made['tokens']:,} tokens of {data}; "
            f"{made['unseen']:,} of them met none"
        )
    if receipt.function is None or receipt.perplexity is None:
        yield "answers           not compared, as asked"
    else:
        found = receipt.function
        kl = "" if found.kl is None else f", KL {found.kl:.3g} nats"
        top1 = "" if found.top1 is None else f", same best token {found.top1:.1%}"
        yield f"answers           log-probabilities differ by {found.mean_logprob:.2g} on average{kl}{top1}"
        if receipt.perplexity.before is not None and receipt.perplexity.after is not None:
            data = ", ".join(receipt.perplexity_data)
            yield (
                f"perplexity        {receipt.perplexity.before:.4g} -> {receipt.perplexity.after:.4g} on "
                f"{receipt.perplexity_tokens:,} tokens of {data}"
            )
    yield from (f"left out          {name}" for name in receipt.left_out)
    yield from (f"loads in          {reader}: {how}" for reader, how in receipt.loads_in.items())
    yield f"receipt           {receipt.out}/{RECEIPT}"
