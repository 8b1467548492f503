"""`coterie verify`: whether two models are the same, and how the verdict reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import CONNECTION, Json, KeyFile
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.proof.difference import Difference
    from coterie.verify.identity import Side, Verdict

EITHER = (
    "A directory (model or adapter), hub id (owner/name), GGUF file or address of "
    "an OpenAI-compatible server."
)
Claims = Annotated[
    str | None, typer.Option(help="Append the signed statement here (default: claims.jsonl next to A).")
]


def verify(
    a: Annotated[str, typer.Argument(help=EITHER)],
    b: Annotated[
        str | None,
        typer.Argument(
            help=f"{EITHER} Without it, A is checked against its stored probes, or the hashes of the hub."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="What B was tuned from: A must be B, not this.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Texts to compare on instead of the built-in probes.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Allowed mean log-probability difference (nats); when given, nothing else decides.", min=0
        ),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(help="Where A and B are the same, sign with this private key that A is made from B."),
    ] = None,
    claims: Claims = None,
    model_name: Annotated[
        str | None, typer.Option(help="The model's name at the server.", rich_help_panel=CONNECTION)
    ] = None,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check that two models are the same to their users: outputs, routing, tensors, tokenizers.

    Exits with 0 when they are the same, 1 when they differ, 2 when they could not be compared.
    """
    from coterie.config import ConfigError, CoterieError
    from coterie.remote.client import read_key
    from coterie.verify.identity import compare, open_side

    if sign is None and claims is not None:
        raise ConfigError("verify: --claims is where --sign writes; give --sign KEY")
    if b is None:
        if sign is not None:
            raise ConfigError("verify: --sign joins two models; give the one that A was made from")
        _verify_stored(a, as_json)
        return
    try:
        key = read_key(api_key_file)
        signer = None if sign is None else _Signer(sign, claims)
        one, other = open_side(a, model_name, key), open_side(b, model_name, key)
        origin = open_side(base, model_name, key) if base is not None else None
        verdict = compare(one, other, origin, data, tolerance)
        agreed = signer is not None and verdict.same
        signed = signer.write(one, other, verdict, model_name, key) if signer and agreed else None
    except CoterieError as error:
        error.exit_code = 2
        raise
    lines = [*_verdict(verdict), *([] if signed is None else [f"signed            {signed}"])]
    answer(verdict.to_dict() | ({} if signed is None else {"signed": signed}), as_json, lines)
    if not verdict.same:
        raise SystemExit(1)


class _Signer:
    """Signs what `verify` found: the key is read before the comparison, which may take long."""

    def __init__(self, key: str, claims: str | None) -> None:
        from coterie.evidence.keys import SigningKey

        self._key, self._claims = SigningKey.read(key), claims

    def write(self, a: Side, b: Side, verdict: Verdict, model_name: str | None, key: str | None) -> str:
        """Append the statement; the file it is in."""
        from coterie.evidence.claims import append_claim
        from coterie.verify.equivalence import claims_of, sign_equivalence
        from coterie.verify.known import known_identity

        path = claims_of(a) if self._claims is None else Path(self._claims)
        derived, source = (known_identity(side.name, model_name, key) for side in (a, b))
        append_claim(path, sign_equivalence(self._key, verdict, derived, source))
        return str(path)


def _verify_stored(path: str, as_json: bool) -> None:
    from coterie.verify.stored import check_stored

    found = check_stored(path)
    if found.origin is not None and found.difference is None:
        facts: dict[str, Any] = {"a": path, "same": True, "hub": asdict(found.origin), "files": found.files}
        line = f"same: all {found.files} files have the hashes that the hub states for {found.origin}"
        answer(facts, as_json, [line])
    elif found.difference is None:
        facts = {"a": path, "same": True, "base": str(found.base)}
        answer(facts, as_json, [f"same: {path} is whole, and {found.base} is the base that it was made for"])
    else:
        facts = {"a": path, "same": True, "difference": found.difference.to_dict()}
        first = f"same: {path} answers its probes as when it was saved"
        answer(facts, as_json, [first, *difference_lines(found.difference)])


def _verdict(verdict: Verdict) -> Iterator[str]:
    """The verdict in words, reasons first."""
    yield "same: A and B are one model to their users" if verdict.same else "DIFFERENT"
    yield from (f"  because {reason}" for reason in verdict.reasons)
    yield f"A                 {verdict.a}"
    yield f"B                 {verdict.b}"
    yield from difference_lines(verdict.difference, verdict.tolerance)
    if verdict.gravity is not None:
        yield f"base gravity      {verdict.gravity:.3f} (1: A is the tuned model B, 0: A is the base)"
    if verdict.tensors is not None:
        walk = verdict.tensors
        first = f", the first is '{walk.first}': {walk.what}" if walk.first is not None else ""
        rounded = f", {walk.rounded} compared after rounding" if walk.rounded else ""
        yield f"tensors           {walk.differing} of {walk.compared} differ{first}{rounded}"
    if verdict.unreached:
        listed = ", ".join(f"{count} in layer {layer}" for layer, count in verdict.unreached.items())
        yield f"not probed        experts that no probe reached: {listed}"
    yield from (f"note              {note}" for note in verdict.notes)


def difference_lines(found: Difference, tolerance: float | None = None) -> list[str]:
    """The figures of a comparison of outputs, one a line."""
    allowed = "" if tolerance is None else f", tolerance {tolerance:g}"
    lines = [
        f"log-probability   {found.mean_logprob:.3g} mean difference, {found.max_logprob:.3g} largest "
        f"({found.positions:,} positions{allowed})"
    ]
    if found.kl is not None:
        lines.append(f"KL                {found.kl:.3g} nats per position")
    if found.top1 is not None:
        lines.append(f"top-1 agreement   {found.top1:.2%}")
    if found.routing:
        lines.append(f"routing           {_routing(found.routing)}")
    return lines


def _routing(shares: dict[int, float]) -> str:
    """Agreement by layer: the lowest, and all of them where they are few."""
    layer = min(shares, key=lambda index: shares[index])
    if shares[layer] == 1:
        return "the same experts in every layer"
    listed = ", ".join(f"{index}: {share:.1%}" for index, share in shares.items())
    return f"lowest {shares[layer]:.2%} in layer {layer}" + (
        f"; by layer {listed}" if len(shares) <= 12 else ""
    )
