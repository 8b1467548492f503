"""The contamination index: its speed, its size, its false finds, and what it adds to packing.

    python bench/index.py [--megabytes 6] [--rounds 5]

Times are processor seconds of the process, one thread, so other work on the machine matters less.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import RESULTS, environment, median, write_json
from coterie import primer
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.items import QueriedItem
from coterie.contamination.query import query
from coterie.data.documents import Document
from coterie.data.indexed import add_document
from coterie.data.shards import write_shards
from coterie.results.contamination import IndexFacts
from coterie.text.tokenizer import Tokenizer

SYLLABLES = "ka lo mi ter van su pel dor ni ash quo bre fen gul tor wex yan zib".split()
RATE = 1e-4


def words(rng: random.Random, count: int) -> str:
    """Random words: no two texts share eight of them by chance."""
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(2, 6))) for _ in range(count))


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds, result) of one call."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def pack(documents: list[Document], tokenizer: Tokenizer, indexed: bool) -> ContaminationIndex | None:
    """Write the shards of documents, and their index with them."""
    builder = IndexBuilder("pretrain")
    with tempfile.TemporaryDirectory() as folder:
        seen = (lambda one, size: add_document(builder, one, size, tokenizer)) if indexed else None
        shards = write_shards(documents, tokenizer, Path(folder, "train"), seen=seen)
        if not indexed:
            return None
        index = builder.finish(shards.num_tokens)
        index.write(Path(folder, "train.index"))
        return index


def speed(documents: list[Document], tokens: int, rounds: int) -> dict[str, Any]:
    """Units and tokens per second of the index alone."""

    def build() -> ContaminationIndex:
        builder = IndexBuilder("pretrain")
        for document in documents:
            builder.add(document.text, 1, document.slice, document.source, document.number)
        return builder.finish(len(documents))

    times, index = [], build()
    for _ in range(rounds):
        seconds, index = spent(build)
        times.append(seconds)
    return {
        "units": index.header.units,
        "tokens": tokens,
        "seconds": times,
        "units_per_second": index.header.units / median(times),
        "tokens_per_second": tokens / median(times),
    }


def packing(documents: list[Document], tokenizer: Tokenizer, rounds: int) -> dict[str, Any]:
    """Processor time of packing with the index over without, each ratio within one round."""
    pack(documents[: len(documents) // 10], tokenizer, True)
    pairs = []
    for turn in range(rounds):
        order = (False, True) if turn % 2 else (True, False)
        found = {indexed: spent(partial(pack, documents, tokenizer, indexed))[0] for indexed in order}
        pairs.append([found[False], found[True]])
    return {"seconds": pairs, "ratio": median([with_it / without for without, with_it in pairs])}


def size(units: int) -> dict[str, float]:
    """Bytes a unit of random text, where every fingerprint is new: the largest that an index can be."""
    builder = IndexBuilder("pretrain")
    rng = random.Random(0)
    for _ in range(units // 1000):
        builder.add(words(rng, 1000), 1000)
    index = builder.finish(builder.tokens)
    sketch = index.sketch(RATE)
    return {
        "exact": index.arrays["fingerprints"].nbytes / index.header.units,
        "sketch": sketch.arrays["fingerprints"].nbytes / index.header.units,
        "fingerprints": index.header.fingerprints / index.header.units,
    }


def recall(texts: int) -> dict[str, float]:
    """Share of items found by the length of what they share with one text, and false finds among others."""
    rng = random.Random(1)
    items = [QueriedItem(str(at), words(rng, 40), (words(rng, 2),)) for at in range(texts)]
    found: dict[str, float] = {}
    for shared in (8, 10, 11, 12, 13, 20):
        builder = IndexBuilder("pretrain")
        for item in items:
            own = item.question.split()
            at = rng.randrange(len(own) - shared + 1)
            builder.add(f"{words(rng, 60)} {' '.join(own[at : at + shared])} {words(rng, 60)}", 1)
        found[str(shared)] = share(items, builder.finish(texts))
    builder = IndexBuilder("pretrain")
    for _ in range(texts):
        builder.add(words(rng, 200), 1)
    index = builder.finish(texts)
    return found | {"false": share(items, index), "false_sketch": share(items, index.sketch(RATE))}


def share(items: list[QueriedItem], index: ContaminationIndex) -> float:
    """Contaminated items over all."""
    facts = IndexFacts(stage="pretrain", digest="", kind="exact", documents=0, tokens=0, coverage=1)
    return query(items, "", [(facts, index)]).count("contaminated") / len(items)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1000)
    given = parser.parse_args()
    read = primer.documents(0, int(given.megabytes * 1e6))
    documents = [Document(one.text, "primer", one.slice, at) for at, one in enumerate(read, 1)]
    tokenizer = Tokenizer.train((one.text for one in documents[:2000]), 4096, starts_texts=True)
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch([one.text for one in documents]))
    record = {
        "environment": environment() | {"numpy": np.__version__},
        "documents": len(documents),
        "megabytes": sum(len(one.text.encode()) for one in documents) / 1e6,
        "rounds": given.rounds,
        "texts": given.texts,
        "rate": RATE,
        "speed": speed(documents, tokens, given.rounds),
        "packing": packing(documents, tokenizer, given.rounds),
        "bytes_per_unit": size(200_000),
        "recall": recall(given.texts),
    }
    print(record)
    write_json(RESULTS / "index.json", record)


if __name__ == "__main__":
    main()
