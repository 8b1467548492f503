"""How often do the detectors of learnt items fire, on models that read the items and on models that did not?

    python bench/detectors.py [--seeds 3] [--items 30] [--clean 100] [--clean-items 12]

A small mixture of experts reads the embedded corpus. Copies of it read on; in their text stands a file of
items with its canary, 1, 4 or 16 times, and in that of the clean copy not at all. For each number of times
and each seed the items are others. The clean copy is asked about the items of `--clean` further seeds. A
detector fires where its p value is below .01, alone in its report. D1 looks the items up in an index of what
was read. D5 has no verdict: its number is the share of twins that are less familiar than their item. What
stands in bench/results/detectors.json already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from common import RESULTS, environment, write_json
from coterie import primer
from coterie.benchmarks import Benchmark, items_digest, load_benchmark
from coterie.benchmarks.canary import canary_item
from coterie.benchmarks.files import FixedItems
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.query import query
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.canary import canary_finding
from coterie.evaluate.detectors.correction import ALPHA
from coterie.evaluate.detectors.familiarity import familiarity_finding
from coterie.evaluate.detectors.fingerprint import disguise_finding
from coterie.evaluate.detectors.item_order import joined, order_finding
from coterie.evaluate.detectors.option_order import shuffle_finding
from coterie.evaluate.detectors.twins import twin_finding
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.evaluate.splits import queried
from coterie.families import config_from_hf
from coterie.infer.model import LanguageModel
from coterie.nn.logprobs import token_logprobs
from coterie.nn.packed import forward_packed
from coterie.nn.transformer import Transformer
from coterie.results.contamination import IndexFacts
from coterie.results.evaluation import ExecProfile, ModelIdentity
from coterie.text.tokenizer import Tokenizer

MODEL = {
    "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "moe_intermediate_size": 64,
    "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
}  # fmt: skip
ROW, ROWS = 256, 2  # tokens of a row, rows of a step
FIRST, FURTHER = 240, 40  # steps before the copies, and of each copy without what is planted
TIMES = (1, 4, 16)
CANARIES, ORDERS, SHARDS = 999, 9, 20
OPTIONS = ReplyOptions(form="plain")


def test_set(items: int, seed: int) -> Benchmark:
    """Items in random order, as a file of them would be published, with a canary."""
    task = load_benchmark("facts", n=items, seed=seed)
    drawn = [replace(item, group="") for item in task.items()]
    random.Random(seed).shuffle(drawn)
    found = FixedItems(task, drawn)
    found.published, found.canary = True, canary_item(items_digest(drawn))
    return found


def file_of(benchmark: Benchmark) -> str:
    """The items as one text, the canary last."""
    assert benchmark.canary is not None
    return joined([*benchmark.items(), replace(benchmark.canary, facts={})])


def rows_of(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The texts one after the other, cut into rows."""
    ids = [
        token for text in tokenizer.encode_batch(list(texts)) for token in (*tokenizer.document_start, *text)
    ]
    for at in range(0, len(ids) - ROW, ROW):
        yield ids[at : at + ROW + 1]


def train(model: Transformer, rows: Sequence[list[int]], peak: float) -> None:
    """One pass over the rows, in their order."""
    optimizer = torch.optim.AdamW(model.parameters(), peak, (0.9, 0.95))
    steps = len(rows) // ROWS
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 20, 0.1 + (steps - step) / (0.3 * steps))
        part = rows[step * ROWS : (step + 1) * ROWS]
        h_TD = forward_packed(model, [row[:-1] for row in part])
        targets_T = torch.tensor([token for row in part for token in row[1:]])
        loss = -token_logprobs(h_TD, model.head_weight, targets_T).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"  {steps} steps, loss {loss.item():.3f}", flush=True)


def index_of(texts: Sequence[str]) -> ContaminationIndex:
    """The index of what was read."""
    builder = IndexBuilder("pretrain")
    for text in texts:
        builder.add(text, 1)
    return builder.finish(len(texts))


def examined(
    model: Transformer, tokenizer: Tokenizer, benchmark: Benchmark, index: ContaminationIndex
) -> dict[str, float | None]:
    """p values of the tests, the number of D5, and the share of items that D1 finds."""
    subject = LocalSubject(
        LanguageModel(model.eval(), tokenizer, kernels="torch"), "tiny", exact=False,
        identity=ModelIdentity(name="tiny", weights_tensors=None),
        profile=ExecProfile(engine="coterie", version="", dtype="float32"),
    )  # fmt: skip
    records = score_benchmark(subject, benchmark, OPTIONS).records
    count, task = len(records), (subject, benchmark, OPTIONS)
    found = {
        "D2": twin_finding(*task, records, count),
        "D3": shuffle_finding(*task, records, count),
        "D4": order_finding(subject, benchmark, records, ORDERS, SHARDS),
        "D7": canary_finding(*task, CANARIES),
        "D8": disguise_finding(*task, records, count),
    }
    familiar = familiarity_finding(subject, benchmark, records, count)
    facts = IndexFacts(stage="pretrain", digest="", kind="exact", documents=0, tokens=0, coverage=1)
    seen = query(queried(benchmark.items()), "", [(facts, index)])
    return {name: one.p for name, one in found.items() if one is not None} | {
        "D5": None if familiar is None else familiar.statistic,
        "D1": seen.count("contaminated") / count,
        "unscannable": seen.count("unscannable") / count,
        "accuracy": sum(record.score for record in records) / count,
    }


def planted(texts: Sequence[str], text: str, times: int, seed: int) -> list[str]:
    """The texts with another at random places among them."""
    found, rng = list(texts), random.Random(seed)
    for _ in range(times):
        found.insert(rng.randrange(len(found) + 1), text)
    return found


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on."""
    return {
        "items": given.items, "clean_items": given.clean_items, "alpha": ALPHA, "model": MODEL,
        "steps": [FIRST, FURTHER], "step_tokens": ROW * ROWS, "canaries": CANARIES, "orders": ORDERS,
        "shards": SHARDS,
    }  # fmt: skip


def started(wanted: dict[str, Any]) -> dict[str, Any]:
    """The record to go on with: that of an earlier run with the same settings, or an empty one."""
    path = RESULTS / "detectors.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("settings") == wanted:
        return known
    return {"settings": wanted, "read": {str(times): [] for times in TIMES}, "clean": []}


def main() -> None:
    """Train, plant, look."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=30)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--clean-items", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record = started(settings(given))
    texts = [one.text for one in primer.documents(0, 4 * (FIRST + FURTHER) * ROW * ROWS)]
    random.Random(0).shuffle(texts)
    tokenizer = Tokenizer.train(texts[:1000], 1024, starts_texts=True)
    rows = list(rows_of(texts, tokenizer))
    rest = [tokenizer.decode(row[:-1]) for row in rows[FIRST * ROWS : (FIRST + FURTHER) * ROWS]]
    model = Transformer(config_from_hf(MODEL | {"vocab_size": tokenizer.vocab_size}))
    model.initialise(0)
    train(model, rows[: FIRST * ROWS], 3e-3)
    record["parameters"] = sum(one.numel() for one in model.parameters())

    def found(times: int, seed: int) -> None:
        """One copy that read the items, examined and written down."""
        spent, benchmark = time.process_time(), test_set(given.items, 10_000 + seed)
        reader, read = copy.deepcopy(model), planted(rest, file_of(benchmark), times, seed)
        train(reader.train(), list(rows_of(read, tokenizer)), 1e-3)
        result = examined(reader, tokenizer, benchmark, index_of(read))
        keep(record, record["read"][str(times)], result, spent)

    for seed in range(given.seeds):
        for times in TIMES:
            if len(record["read"][str(times)]) <= seed:
                found(times, seed)
    train(model.train(), list(rows_of(rest, tokenizer)), 1e-3)
    index = index_of(rest)
    for seed in range(len(record["clean"]), given.clean):
        spent = time.process_time()
        result = examined(model, tokenizer, test_set(given.clean_items, seed), index)
        keep(record, record["clean"], result, spent)


def keep(record: dict[str, Any], results: list[Any], result: dict[str, Any], since: float) -> None:
    """Write a result down with the processor's seconds that it took."""
    results.append(result | {"seconds": time.process_time() - since})
    print(len(results), {key: value and round(value, 4) for key, value in results[-1].items()}, flush=True)
    write_json(RESULTS / "detectors.json", record | {"environment": environment()})


if __name__ == "__main__":
    main()
