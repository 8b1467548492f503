"""`coterie index`: which evaluation items are in the text that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json, Out, Sources
from coterie.cli.output import answer

if TYPE_CHECKING:
    from pathlib import Path

    from coterie.contamination.sketch import SketchKey
    from coterie.recipes.trained_stages import Searched
    from coterie.results.contamination import ContaminationRecord

Target = Annotated[
    str, typer.Argument(help="An index, the directory of a run, or of a model, adapter or patch.")
]
KeyFile = Annotated[
    str | None,
    typer.Option(help="A file with a secret of 16 bytes or more: only those who have it can ask the index."),
]
More = Annotated[
    list[str] | None, typer.Option("--index", help="Further files or folders of indexes; may be repeated.")
]
Items = Annotated[
    str, typer.Argument(help="JSONL with id, question (or prompt, messages) and answer; choices, passage.")
]
_SHOWN = 10


def build(
    sources: Sources,
    out: Out,
    stage: Annotated[str, typer.Option(help="Which stage of training reads this text.")] = "pretrain",
    as_json: Json = False,
) -> None:
    """Index text that was not packed here. Runs of coterie index their text themselves.

    A token of this index is a unit of normalised text, because no tokenizer is involved.
    """
    from pathlib import Path

    from coterie.contamination.index import as_stage
    from coterie.data.indexed import index_sources

    index = index_sources(sources, as_stage(stage))
    index.write(Path(out))
    header = index.header
    answer(
        header.to_dict() | {"path": out},
        as_json,
        [
            f"{out}: {header.documents:,} documents, {header.units:,} units, "
            f"{header.fingerprints:,} fingerprints"
        ],
    )


def query(
    target: Target,
    items: Items,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Write the record of every item here.")
    ] = None,
    index: More = None,
    key_file: KeyFile = None,
    least_run: Annotated[int, typer.Option(help="Units in a row that count as found.", min=8)] = 8,
    partial: Annotated[
        bool, typer.Option(help="Search the stages that have an index; clean then speaks of these only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sort evaluation items into clean, contaminated and unscannable."""
    from coterie.config.files import file_sha256, write_json
    from coterie.contamination.items import read_items
    from coterie.contamination.query import QueryRules
    from coterie.contamination.query import query as look_up
    from coterie.recipes.trained_stages import searched

    asked = read_items(items)
    stages = searched(target, index, _key(key_file))
    record = look_up(
        asked, file_sha256(_path(items)), stages, QueryRules(least_run=least_run, partial=partial)
    )
    if out is not None:
        write_json(_path(out), record.to_dict())
    answer(record.to_dict(), as_json, _lines(record), ensure_ascii=False)


def export(
    target: Target,
    out: Out,
    rate: Annotated[
        float, typer.Option(help="Of fingerprints that are found by chance.", min=1e-12, max=0.5)
    ] = 1e-4,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Write the form of an index that can be shared: Bloom filters, without names of files or documents.

    Who has it can test whether a text was in the training data, so nothing but this command writes it. With
    --key-file, only those who have the key can ask. Of several stages, --out is a directory.
    """
    from coterie.config.errors import DataError
    from coterie.recipes.trained_stages import searched

    stages, key = searched(target), _key(key_file)
    missing = [facts.stage for facts, index in stages if index is None]
    if missing:
        raise DataError(f"{target}: the index of stage {missing[0]} is not here; a part would look complete")
    facts_of: dict[str, Any] = {}
    for facts, index in stages:
        assert index is not None
        path = (
            _path(out) if len(stages) == 1 else _path(out) / f"{facts.stage}-{str(facts.digest)[:16]}.index"
        )
        index.sketch(rate, key).write(path)
        facts_of[str(path)] = path.stat().st_size
    answer({"files": facts_of}, as_json, (f"{name}: {size:,} bytes" for name, size in facts_of.items()))


def show(target: Target, index: More = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show the stages behind a model and what their indexes have seen."""
    from coterie.recipes.trained_stages import searched

    stages = searched(target, index, _key(key_file))
    facts = [facts.to_dict() | {"header": _header(index)} for facts, index in stages]
    answer({"stages": facts}, as_json, _stage_lines(stages))


def find(
    items: Items,
    sources: Sources,
    least_run: Annotated[int, typer.Option(help="Units in a row that count as found.", min=8)] = 13,
    as_json: Json = False,
) -> None:
    """Name the documents that hold evaluation items, before anything is trained on them.

    In the settings of a run, data.exclude.items stops it at such a document, or leaves the document out.
    """
    from coterie.data.indexed import find_items
    from coterie.data.sources import read_sources

    documents = list(read_sources(sources))
    found = find_items(documents, [items], least_run)
    facts = [
        {"source": documents[one.document].source, "number": documents[one.document].number}
        | {"item": one.item, "units": one.units, "words": one.words}
        for one in found
    ]
    lines = (f"{one['source']}:{one['number']}: item {one['item']}, {one['units']} units" for one in facts)
    answer({"found": facts, "documents": len(documents)}, as_json, [*lines, f"{len(facts):,} found"])


def _header(index: Any) -> dict[str, Any] | None:
    return None if index is None else index.header.to_dict()


def _stage_lines(stages: Searched) -> Iterator[str]:
    for facts, index in stages:
        if index is None:
            yield f"{facts.stage:10} no index: items cannot be called clean"
            continue
        header = index.header
        sized = sum(array.nbytes for array in index.arrays.values())
        keyed = ", keyed" if header.key else ""
        yield (
            f"{facts.stage:10} {header.kind}{keyed}, {header.documents:,} documents, {header.tokens:,} "
            f"tokens, {header.fingerprints:,} fingerprints, {sized:,} bytes, sha256 {str(facts.digest)[:16]}"
        )


def _lines(record: ContaminationRecord) -> Iterator[str]:
    yield record.words()
    for facts in record.indexes:
        if facts.digest is None:
            yield f"stage {facts.stage} has no index here"
    found = [one for one in record.findings if one.kind == "contaminated"]
    for one in found[:_SHOWN]:
        yield f"contaminated  {one.id}  {one.label}, {one.why} ({', '.join(one.stages)})"
    if len(found) > _SHOWN:
        yield f"{len(found) - _SHOWN:,} more; -o FILE writes them all"
    reasons = {one.why for one in record.findings if one.kind == "unscannable"}
    for why in sorted(reasons)[:3]:
        count = sum(one.why == why for one in record.findings)
        yield f"unscannable   {count:,} items: {why}"


def _key(path: str | None) -> SketchKey | None:
    from coterie.config.errors import DataError
    from coterie.config.files import read_bytes
    from coterie.contamination.sketch import SketchKey

    if path is None:
        return None
    try:
        return SketchKey.of(read_bytes(path, 2**16), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the file of the key") from None


def _path(name: str) -> Path:
    from pathlib import Path

    return Path(name)
