"""`coterie eval verify`: replay items of a report on the model that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.results.reproduction import Reproduction


def verify(
    report: Annotated[str, typer.Argument(help="The directory of an evaluation, or a release.")],
    model: Annotated[str, typer.Argument(help="The model that the report says was scored.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings over those of the report, such as threads=2.")
    ] = None,
    items: Annotated[int, typer.Option("--items", "--m", help="Items of each task.", min=1)] = 149,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="On another machine: test against the noise of two runs.")
    ] = False,
    nonce: Annotated[str | None, typer.Option(help="Decides which items [default: a new one].")] = None,
    sign: Annotated[str | None, typer.Option(help="A private key that signs what was reproduced.")] = None,
    claims: Annotated[
        str | None, typer.Option(help="Where the signed statement goes [default: claims.jsonl there].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay items of a report, drawn by a nonce, and compare them one by one; exits with 1 on a difference.

    The digests of the model are compared first: other weights are refused.
    """
    from coterie.evidence.claims import CLAIMS
    from coterie.evidence.keys import SigningKey
    from coterie.recipes.verify_report import report_folder, sign_reproduction, verify_report

    key = None if sign is None else SigningKey.read(sign)
    folder = report_folder(report)
    found = verify_report(folder, model, items, noisy, nonce, settings or [])
    lines = [*_lines(found)]
    if key is not None and found.reproduced:
        file = Path(claims) if claims is not None else folder / CLAIMS
        sign_reproduction(found, key, file)
        lines.append(f"signed      {file}")
    answer(found.to_dict(), as_json, lines)
    if not found.reproduced:
        raise typer.Exit(1)


def _lines(found: Reproduction) -> Iterator[str]:
    yield f"{'reproduced' if found.reproduced else 'DIFFERS':12}{found.mode}, nonce {found.nonce}"
    for task in found.tasks:
        finds = ", ".join(
            f"{100 * float(share):g} % with probability {chance:.2f}" for share, chance in task.finds.items()
        )
        yield f"{task.task}: {task.items} of {task.of} items, {task.mismatches} differ"
        yield f"            finds an inflation of {finds}"
        if task.noise is not None:
            tests = [f"lost {task.p_lost:.2g}", f"flips {task.p_flips:.2g}"]
            tests += [] if task.p_logprobs is None else [f"log-probabilities {task.p_logprobs:.2g}"]
            yield f"            noise at most {task.noise:.1%}; p of {', '.join(tests)}"
        yield from (f"            {line}" for line in task.first)
