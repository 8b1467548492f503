"""`coterie release`: publish a model with its evidence, check a release, write it in other forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.release.check import CheckedRelease
    from coterie.release.gate import Refusal
    from coterie.release.publish import PublishOutcome

KeyPath = Annotated[str, typer.Option("--key", help="Your private key, an Ed25519 key in PEM.")]
Waived = Annotated[
    list[str] | None,
    typer.Option(help="FLAG=REASON: let a flag pass; signed, and printed in the card (repeatable)."),
]
Publics = Annotated[
    list[str] | None,
    typer.Option("--public", help="The publisher's .pub file, and of others who signed (repeatable)."),
]
LicenceFile = Annotated[
    str | None, typer.Option("--license", help="The licence's text (default: LICENSE of the directory).")
]
LicenceName = Annotated[
    str | None, typer.Option(help="Its identifier, such as apache-2.0 (default: as the text says).")
]
Signers = Annotated[
    list[str] | None,
    typer.Option(help="The .pub file of who signed the report, if it was not you (repeatable)."),
]


def make(
    model: Annotated[str, typer.Argument(help="The model's directory.")],
    report: Annotated[str, typer.Option(help="The folder or report.json of coterie eval.")],
    key: KeyPath,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="The release to write (default: only say what is missing)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Where users will find it, such as owner/name (default: the directory's)."),
    ] = None,
    about: Annotated[str | None, typer.Option(help="A file of prose for the card.")] = None,
    license_file: LicenceFile = None,
    license_name: LicenceName = None,
    waive: Waived = None,
    index: Annotated[
        list[str] | None, typer.Option(help="An index of training data to publish with it (repeatable).")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="A server that the card names; must serve these weights (repeatable)."),
    ] = None,
    ledger: Annotated[str | None, typer.Option(help="The ledger of looks.")] = None,
    public: Signers = None,
    items: Annotated[
        int,
        typer.Option("--m", help="Items of each task that are run again before signing; 0: none.", min=0),
    ] = 60,
    as_json: Json = False,
) -> None:
    """Release a model: card, report, records, statements, list of software, signature.

    Refuses by default: prints every reason, one a line, and exits with 1.
    """
    from coterie.cli.options import named_paths
    from coterie.recipes.verify_report import replayed_items
    from coterie.release.publish import PublishRequest, publish

    done = publish(
        PublishRequest(
            model=model,
            report=report,
            key=key,
            out=out,
            name=name,
            about=about,
            licence=license_file,
            licence_name=license_name,
            waive=named_paths(waive or [], "--waive"),
            indexes=index or (),
            endpoints=endpoint or (),
            ledger=ledger,
            public=public or (),
            items=items,
        ),
        replayed_items,
    )
    answer(done.to_dict(), as_json, _published(done))
    _end(done.refusals)


def check(
    release: Annotated[
        str,
        typer.Argument(help="A release: a directory or a hub id; or the address of a server that serves it."),
    ],
    public: Publics = None,
    report: Annotated[
        str | None, typer.Option(help="Of a server: the release or report that it must serve the weights of.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a release as its receiver: every digest, signature and score, and the card against the report.

    Prints every reason against it, one a line, and exits with 1.
    """
    from coterie.release.publish import check_target

    checked = check_target(release, [Path(one) for one in public or ()], report)
    answer(checked.to_dict(), as_json, _checked(checked))
    _end(checked.refusals)


def export(
    release: Annotated[str, typer.Argument(help="The release's directory.")],
    to: Annotated[str, typer.Option(help="eee (Every Eval Ever), hf (.eval_results) or in-toto.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Directory to write; must not exist.")],
    key: Annotated[
        str | None, typer.Option(help="in-toto: the private key that signs the statement.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="hf: TASK=owner/name:task_id, the benchmark of a task on the hub (repeatable)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name, owner/name (default: the report's).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a release's scores in the form of other tools."""
    from coterie.cli.options import named_paths
    from coterie.release.exports import export_release

    signer, datasets = None if key is None else Path(key), named_paths(dataset or [], "--dataset")
    files = export_release(Path(release), to, Path(out), signer, datasets, name)
    answer({"path": out, "files": files}, as_json, [f"{out}/{name}" for name in files])


def sign(
    report: Annotated[str, typer.Argument(help="The folder or report.json of coterie eval.")],
    key: KeyPath,
    as_json: Json = False,
) -> None:
    """Sign a report: you say that these are the scores that you measured."""
    from coterie.release.publish import sign_report

    file, signer = sign_report(Path(report), Path(key))
    answer({"claims": str(file), "key": signer}, as_json, [f"signed by {signer}", f"claims    {file}"])


def _published(done: PublishOutcome) -> Iterator[str]:
    if done.refusals:
        yield f"REFUSED   {done.name}: {len(done.refusals)} reason{'s' * (len(done.refusals) != 1)}"
        yield from _reasons(done.refusals)
        return
    yield (
        f"released  {done.out}"
        if done.out is not None
        else f"fine      {done.name} may be released; -o writes it"
    )
    yield from (f"note      {line}" for line in done.notes)
    if done.out is not None:
        yield f"check     coterie release check {done.out} --public {done.public}"


def _checked(checked: CheckedRelease) -> Iterator[str]:
    yield f"REFUSED   {checked.path}" if checked.refusals else f"fine      {checked.path}"
    yield from _reasons(checked.refusals)
    if checked.record is not None:
        yield f"release   {checked.record.name}, {checked.record.created}, {checked.record.licence}"
    yield from (f"note      {line}" for line in checked.notes)


def _reasons(refusals: Sequence[Refusal]) -> Iterator[str]:
    yield from (f"  {one.rule:9} {one.says}" for one in refusals)


def _end(refusals: Sequence[Refusal]) -> None:
    if refusals:
        raise SystemExit(1)
