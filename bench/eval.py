"""lm-eval's tasks through coterie's adapter and through lm-eval's own Hugging Face backend: results and time.

Three local tasks of 200 items in all: questions with choices, questions with replies, whole texts. Every
contender is a process with the same random mixture of 64 experts in float32. At first each answers all items
through lm-eval, and what it answered is compared item by item with the backend's answers one at a time. Then
the contenders answer the requests of a task in turns. Figures are processor seconds with one thread and time
on the clock with several; ratios are taken within a round. `exact` and `shared` are coterie's modes
(`eval ... exact=`), `hf-N` is the backend with a batch size of N.

    python bench/eval.py [--models small,middle] [--threads 1,2] [--rounds 3] [--tasks choices,replies,texts]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, write_json

Samples = dict[str, list[dict[str, Any]]]
TASKS = ("choices", "replies", "texts")
ITEMS = {"choices": 80, "replies": 70, "texts": 50}
CONTENDERS = ("exact", "shared", "hf-1", "hf-16", "hf-64")
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "moe_intermediate_size": 64,
    },
    "middle": {
        "hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "moe_intermediate_size": 192,
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "num_key_value_heads": 2, "intermediate_size": 256, "num_experts": 64, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
VOCABULARY = 4096


def words(draw: random.Random) -> list[str]:
    """Two thousand made-up words."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    return ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(2000)]


def write_tasks(folder: Path) -> str:
    """The YAML files and data of the three tasks; returns text to train a tokenizer on."""
    draw = random.Random(1)
    known = words(draw)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(known, k=draw.randint(low, high)))

    docs: dict[str, list[dict[str, Any]]] = {
        "choices": [
            {"question": text(10, 60), "choices": [text(1, 8) for _ in range(4)], "gold": draw.randrange(4)}
            for _ in range(ITEMS["choices"])
        ],
        "replies": [{"question": text(10, 60), "answer": text(1, 1)} for _ in range(ITEMS["replies"])],
        "texts": [{"text": text(20, 300)} for _ in range(ITEMS["texts"])],
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    settings: dict[str, dict[str, Any]] = {
        "choices": {
            "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "choices", "doc_to_target": "gold", "num_fewshot": 2, "fewshot_split": "test",
            "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
        },
        "replies": {
            "output_type": "generate_until", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "answer", "metric_list": [{"metric": "exact_match", **mean}],
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False},
        },
        "texts": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    }  # fmt: skip
    for name in TASKS:
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(doc) + "\n" for doc in docs[name]))
        files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps(whole | settings[name]))  # JSON is YAML
    return " ".join(known * 3) + " Question: Answer:\n"


def write_model(name: str, folder: Path, text: str) -> None:
    """A random model in Hugging Face's layout, with a tokenizer for the tasks' words."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from coterie.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([text], VOCABULARY)
    shape = COMMON | SHAPES[name] | {"vocab_size": tokenizer.vocab_size, "head_dim": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **shape)).float()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for kind, parameter in model.named_parameters():
            scale = 0.1 if "norm" in kind else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if "norm" in kind:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    tokenizer.save(folder)


def contender(name: str, model: str) -> Any:
    """The `LM` of one contender."""
    kind, _, size = name.partition("-")
    if kind == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=int(size))
    import coterie
    from coterie.evaluate.harness.model import HarnessModel
    from coterie.evaluate.local_subject import LocalSubject

    return HarnessModel(LocalSubject(coterie.load(model, dtype="float32"), exact=kind == "exact"))


def answers(lm: Any, tasks: dict[str, Any]) -> Samples:
    """What lm-eval's own evaluation keeps of each item: answers and scores."""
    from lm_eval.evaluator import evaluate

    found = evaluate(lm, {"tasks": dict(tasks)}, bootstrap_iters=0)
    assert found is not None
    kept = {"doc_id", "doc_hash", "prompt_hash", "resps", "acc", "acc_norm", "exact_match", "bits_per_byte"}
    return {
        name: [{key: value for key, value in sample.items() if key in kept} for sample in samples]
        for name, samples in found["samples"].items()
    }


def child(name: str, folder: str, threads: int) -> None:
    """Load and answer everything; then the requests of a task for each line that names one."""
    import torch

    from coterie.evaluate.harness.tasks import load_tasks, quiet

    torch.set_num_threads(threads)
    out, sys.stdout = sys.stdout, sys.stderr
    lm = contender(name, str(Path(folder) / "model"))
    tasks = {task: load_tasks(str(Path(folder) / f"{task}.yaml"))[0] for task in TASKS}
    with quiet():
        print(json.dumps(answers(lm, tasks), default=str), file=out, flush=True)
        for line in sys.stdin:
            task = tasks[line.strip()]
            ask: Callable[[list[Any]], Any] = getattr(lm, _method(task.OUTPUT_TYPE))
            wall, cpu = time.perf_counter(), time.process_time()
            ask(task.instances)
            print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), file=out, flush=True)


def _method(kind: str) -> str:
    return "loglikelihood" if kind == "multiple_choice" else kind


def compared(mine: Samples, theirs: Samples) -> dict[str, Any]:
    """Items that are equal by task, and the largest difference of a log-probability."""
    found: dict[str, Any] = {}
    for task in TASKS:
        pairs = list(zip(mine[task], theirs[task], strict=True))
        if any(a[key] != b[key] for a, b in pairs for key in ("doc_hash", "prompt_hash")):
            raise SystemExit(f"eval: {task}: the contenders were asked different things")
        if task == "replies":
            found[task] = {"equal": sum(a == b for a, b in pairs), "items": len(pairs)}
            continue
        numbers = [list(zip(_numbers(a), _numbers(b), strict=True)) for a, b in pairs]
        flags = [task == "texts" or _verdicts(a) == _verdicts(b) for a, b in pairs]
        apart = [max(abs(x - y) for x, y in each) for each in numbers]
        share = [max(abs(x - y) / abs(y) for x, y in each) for each in numbers]
        found[task] = {
            "equal": sum(flags), "items": len(pairs), "largest_difference": max(apart),
            "largest_relative": max(share), "over_1e-4": sum(each > 1e-4 for each in share),
        }  # fmt: skip
    return found


def _numbers(sample: dict[str, Any]) -> list[float]:
    """The log-probabilities of an item."""
    return [one[0] if isinstance(one, list) else one for (one,) in sample["resps"]]


def _verdicts(sample: dict[str, Any]) -> list[Any]:
    """Scores of an item, and which choices greedy decoding writes."""
    return [sample["acc"], sample["acc_norm"], [one[1] for (one,) in sample["resps"]]]


class Contender:
    """A process that answers."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--child", name, str(folder), str(threads)]
        environ = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environ,
        )  # fmt: skip

    def line(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise SystemExit(f"eval: {self.name} does not run")
        return json.loads(said)

    def turn(self, task: str) -> list[float]:
        """Wall and processor seconds of one task."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        seconds: list[float] = self.line()
        return seconds

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()


def measured(folder: Path, threads: int, rounds: int, tasks: list[str], names: list[str]) -> dict[str, Any]:
    """Agreement with `hf-1`, seconds by task and contender, and each one's time over ours."""
    running = [Contender(name, folder, threads) for name in names]
    samples = {each.name: each.line() for each in running}
    agreement = {name: compared(found, samples["hf-1"]) for name, found in samples.items() if name != "hf-1"}
    of = 1 if threads == 1 else 0
    result: dict[str, Any] = {"agreement": agreement, "tasks": {}}
    for task in tasks:
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for each in running:
                seconds[each.name].append(each.turn(task)[of])
        result["tasks"][task] = {
            "seconds": {name: median(values) for name, values in seconds.items()},
            "ratio": {
                mine: {name: _ratio(seconds[name], seconds[mine]) for name in names if name.startswith("hf")}
                for mine in names
                if not mine.startswith("hf")
            },
        }
    for each in running:
        each.end()
    return result


def _ratio(theirs: list[float], mine: list[float]) -> dict[str, float]:
    """Their time over ours: the median of the rounds, and the ends."""
    each = [a / b for a, b in zip(theirs, mine, strict=True)]
    return {"median": median_ratio(theirs, mine), "low": min(each), "high": max(each)}


def main() -> None:
    """Measure and record."""
    if "--child" in sys.argv:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="small")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "eval.json")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_model(name, folder / "model", write_tasks(folder))
            for threads in map(int, given.threads.split(",")):
                tasks, names = given.tasks.split(","), given.contenders.split(",")
                found = measured(folder, threads, given.rounds, tasks, names)
                rows.append({"model": name, "threads": threads} | found)
                print(json.dumps(rows[-1]), flush=True)
                write_json(given.out, {"environment": environment(), "rounds": given.rounds, "rows": rows})


if __name__ == "__main__":
    main()
