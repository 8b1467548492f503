"""What fewer bits cost: bits per byte, distance from the original, right answers and bytes, form by form.

    python bench/quantised.py [--quickstart runs/quickstart] [--minutes 4] [--only smollm2 moe dense]

SmolLM2-135M-Instruct (fetched once, as by `make test-real`) and the two models of a quickstart, which runs
for --minutes where its folder has none. Each form is written by `coterie quantise` and read back; activations
are float32 throughout, as in the native step. Figures go to bench/results/quantised.json after each model.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, environment, write_json
from coterie.checkpoints.checkpoint import Checkpoint, Loaded
from coterie.config import ConfigError, Precision
from coterie.data.heldout import HeldoutDocument, read_domains, retention_documents
from coterie.evaluate.bits import bits_per_byte, score_documents
from coterie.evaluate.exact_match import exact_match
from coterie.infer.model import LanguageModel
from coterie.nn.packed import forward_packed
from coterie.nn.transformer import Transformer
from coterie.primer import qa_probes
from coterie.recipes.quantise import quantise_checkpoint
from coterie.recipes.quantise_files import plan_files

ROOT = Path(__file__).parents[1]
# Name -> what the weights are held in, and whether their rounding is calibrated on the built-in corpus. Codes
# go with an embedding in bfloat16.
FORMS: dict[str, tuple[str, bool]] = {
    "f32": ("f32", False),
    "bf16": ("bf16", False),
    "int8": ("int8", False),
    "int4, blocks of 64": ("int4", False),
    "int4, blocks of 32": ("int4,block=32", False),
    "int4, attention int8": ("int4,attention=int8,block=32", False),
    "int4, calibrated": ("int4,block=32", True),
    "int4, attention int8, calibrated": ("int4,attention=int8,block=32", True),
}
POSITIONS = 1000  # at which distributions are compared
ROW = 256
FACTS = (
    ("capital of France", "Paris"), ("capital of Italy", "Rome"), ("capital of Japan", "Tokyo"),
    ("capital of Egypt", "Cairo"), ("capital of Spain", "Madrid"), ("capital of Germany", "Berlin"),
    ("capital of Russia", "Moscow"), ("capital of China", "Beijing"), ("capital of Greece", "Athens"),
    ("capital of England", "London"), ("capital of Portugal", "Lisbon"), ("capital of Austria", "Vienna"),
    ("capital of Sweden", "Stockholm"), ("capital of Norway", "Oslo"), ("capital of Poland", "Warsaw"),
    ("capital of Cuba", "Havana"), ("capital of Peru", "Lima"), ("capital of Kenya", "Nairobi"),
    ("opposite of hot", "cold"), ("opposite of up", "down"), ("opposite of big", "small"),
    ("opposite of black", "white"), ("opposite of day", "night"), ("opposite of left", "right"),
    ("opposite of happy", "sad"), ("opposite of open", "closed"), ("opposite of early", "late"),
    ("color of grass", "green"), ("color of snow", "white"), ("color of blood", "red"),
    ("largest planet", "Jupiter"), ("closest planet to the Sun", "Mercury"), ("largest ocean", "Pacific"),
    ("longest river in Africa", "Nile"), ("chemical symbol of oxygen", "O"), ("currency of Japan", "yen"),
    ("number of months in a year", "12"), ("number of days in a week", "7"),
    ("language of Brazil", "Portuguese"), ("language of Mexico", "Spanish"),
)  # fmt: skip
SHOTS = "The capital of Canada is: Ottawa\nThe opposite of long is: short\nThe color of the sky is: blue\n"


def questions(published: bool, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """(prompt, answer) by test: facts for a published model, the corpus's own questions for a quickstart."""
    if published:
        return {"facts": [(f"{SHOTS}The {what} is:", answer) for what, answer in FACTS]}
    return {name: list(qa_probes(name, seed, 50)) for name in ("arithmetic", "functions", "stories")}


def texts(checkpoint: Checkpoint, published: bool, tokens: int) -> list[HeldoutDocument]:
    """Text that neither a quickstart nor calibrating reads."""
    assert checkpoint.tokenizer is not None
    found = retention_documents("primer", checkpoint.tokenizer, tokens)
    if published:
        found += read_domains([str(ROOT / "docs" / "train.md")], checkpoint.tokenizer, tokens // 3)
    return found


@torch.inference_mode()
def distributions(model: Transformer, documents: Sequence[HeldoutDocument]) -> torch.Tensor:
    """Log-probabilities (T, V) after each of about POSITIONS tokens."""
    pieces, left = [], POSITIONS
    for document in documents:
        piece = [int(token) for token in document.ids[: min(ROW, left)]]
        if len(piece) > 1:
            pieces.append(piece)
            left -= len(piece)
    return torch.cat([model.logits(forward_packed(model, [piece])).log_softmax(-1) for piece in pieces])


def held(checkpoint: Checkpoint, precision: Precision) -> Loaded:
    """The model in the given forms, activations in float32."""
    return checkpoint.load("float32", precision=precision)


def measured(loaded: Loaded, published: bool, exact: torch.Tensor | None, tokens: int) -> dict[str, Any]:
    """The figures of one form, and its distributions under `exact` where it is the first."""
    checkpoint, model = loaded.checkpoint, loaded.model
    assert checkpoint.tokenizer is not None
    documents = texts(checkpoint, published, tokens)
    own = distributions(model, documents)
    end = checkpoint.tokenizer.document_start[0]
    language = LanguageModel(model, checkpoint.tokenizer, stop_ids=checkpoint.stops, checkpoint=checkpoint)
    found: dict[str, Any] = {
        "bits_per_byte": bits_per_byte(score_documents(model, documents, end, ROW)),
        "right": exact_match(language, questions(published)),
    }
    if exact is None:
        return found | {"exact": own}
    found["kl"] = float((exact.exp() * (exact - own)).sum(-1).mean())
    found["top1"] = float((exact.argmax(-1) == own.argmax(-1)).float().mean())
    return found


def compare(model: str, path: Path, tokens: int) -> dict[str, Any]:
    """Every form of one model."""
    exact, rows = None, {}
    source, published = Checkpoint.open(path), model == "smollm2"
    for name, (table, calibrated) in FORMS.items():
        start, precision = time.process_time(), Precision.parse(table)
        with tempfile.TemporaryDirectory() as folder:
            out, seconds = Path(folder) / "model", 0.0
            if name in ("f32", "bf16"):
                loaded = held(source, Precision.parse(f"{table},head={table},embedding={table}"))
                size = sum(p.nbytes for p in loaded.model.parameters())
            else:
                precision = fitting(source, f"{table},embedding=bf16")
                calibration = ("primer",) if calibrated else ()
                receipt = quantise_checkpoint(path, out, precision, outputs=False, calibration=calibration)
                seconds, size = time.process_time() - start, receipt.bytes.after
                loaded = held(Checkpoint.open(out), precision)
            found = measured(loaded, published, exact, tokens)
            exact = found.pop("exact", exact)
            rows[name] = found | {"quant": str(precision), "bytes": size, "quantise_seconds": seconds}
            print(f"{model} {name}: {json.dumps(rows[name])}", flush=True)
            del loaded, found
            gc.collect()
    return {"parameters": sum(p.numel() for p in held(source, Precision()).model.parameters()), "forms": rows}


def fitting(source: Checkpoint, table: str) -> Precision:
    """The table with the largest blocks, up to its own, that fill the rows of every matrix."""
    wanted = Precision.parse(table)
    for block in (wanted.block, 32, 16, 8):
        found = wanted.model_copy(update={"block": min(block, wanted.block)})
        try:
            plan_files(source, found)
        except ConfigError as error:
            print(f"{error}", flush=True)
        else:
            return found
    raise ConfigError(f"{source.path}: no blocks fill its rows")


def quickstart(folder: Path, minutes: float) -> Path:
    """The folder of a finished quickstart; one is run where it has none."""
    if not (folder / "dense" / "model").is_dir():
        command = [sys.executable, "-m", "coterie.cli.main", "quickstart", "--out", str(folder)]
        subprocess.run([*command, "--minutes", str(minutes)], check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=3000, help="of held-out text")
    parser.add_argument("--only", nargs="+", choices=["smollm2", "moe", "dense"])
    options = parser.parse_args()
    target = RESULTS / "quantised.json"
    record = json.loads(target.read_text()) if options.only and target.is_file() else {"models": {}}
    for name in options.only or ["smollm2", "moe", "dense"]:
        if name == "smollm2":
            sys.path.insert(0, str(ROOT))
            from tests.real import smollm2

            path = smollm2()
        else:
            path = quickstart(options.quickstart, options.minutes) / name / "model"
        record["models"][name] = compare(name, path, options.tokens)
        record |= {"environment": environment(), "tokens": options.tokens, "positions": POSITIONS}
        write_json(target, record)


if __name__ == "__main__":
    main()
