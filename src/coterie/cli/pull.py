"""`coterie pull`: fetch a model from the hub, into its cache or a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.hub.listing import RemoteFile


def pull(
    model: Annotated[
        str, typer.Argument(help="owner/name, owner/name@revision, or owner/name:Q4_K_M for a GGUF file.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit [default: main]; as owner/name@revision.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="A GGUF file by its name; may be repeated. All parts of it come.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="A new directory for plain files [default: the hub's cache].")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and free disk; fetch nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch what a model needs from the hub: configs, tokenizer, licence, safetensors or one GGUF file.

    Run it again after a stop, and it goes on where it was. The hash of every file is checked. HF_TOKEN opens
    models that need access. Pickle files are never fetched.
    """
    from dataclasses import replace

    from coterie.checkpoints.pulled import missing_to, pull_to
    from coterie.config import ConfigError
    from coterie.hub.cache import fill_cache, missing_in_cache, snapshot_of, storage_of
    from coterie.hub.fetch import free_bytes
    from coterie.hub.listing import list_files, needed_files
    from coterie.hub.names import HubName

    name = HubName.parse(model)
    if name is None:
        raise ConfigError(f"{model}: is no name on the hub; write owner/name, owner/name@revision or :TYPE")
    if revision is not None:
        if name.revision not in (None, revision):
            raise ConfigError(f"{model}: --revision {revision} names another revision; give one of them")
        name = replace(name, revision=revision)
    listing = list_files(name)
    files = needed_files(listing, tuple(file or ()))
    folder = storage_of(name.repo) if to is None else Path(to).expanduser()
    missing = missing_in_cache(listing, files) if to is None else missing_to(files, folder)
    place = snapshot_of(listing) if to is None else folder
    facts = {
        "model": name.repo,
        "revision": listing.commit,
        "directory": str(place),
        "files": {found.name: {"bytes": found.size, "hash": found.digest} for found in files},
        "bytes": sum(found.size for found in files),
        "bytes_to_fetch": missing,
        "free_bytes": free_bytes(folder),
        "fetched": not dry_run,
    }
    if not dry_run and to is None:
        fill_cache(listing, files)
    elif not dry_run:
        pull_to(listing, files, folder)
    opens = Path(to, files[0].name if files[0].name.endswith(".gguf") else "") if to is not None else name
    answer(facts, as_json, _lines(facts, files, str(opens)))


def _lines(facts: dict[str, Any], files: list[RemoteFile], opens: str) -> Iterator[str]:
    from coterie.report.words import size

    done = facts["fetched"]
    yield f"model        {facts['model']}, revision {facts['revision']}"
    yield f"directory    {facts['directory']}"
    yield from (f"  {size(file.size):>8}  {file.name}" for file in files)
    if not done:
        yield f"to fetch     {size(facts['bytes_to_fetch'])} of {size(facts['bytes'])}"
        fits = "" if facts["free_bytes"] >= facts["bytes_to_fetch"] else ", which is not enough"
        yield f"free disk    {size(facts['free_bytes'])}{fits}"
        return
    yield f"checked      {len(files)} files, {size(facts['bytes'])}, by the hashes of the hub"
    yield f"next         coterie inspect {opens}"
