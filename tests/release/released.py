"""Tiny models with a signed report, for tests of the gate and of releases."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import commit_directory
from coterie.config import BlockConfig, FeedForwardConfig, ModelConfig
from coterie.config.files import file_sha256, write_json
from coterie.evaluate.kept_records import line_of, samples_file
from coterie.evidence.canonical import digest_of
from coterie.evidence.claims import CLAIMS, append_claim
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import EVAL_REPORT, sign_statement
from coterie.identity.model import model_identity
from coterie.infer.model import LanguageModel
from coterie.nn.transformer import Transformer
from coterie.release.bundle import Publication, write_bundle
from coterie.release.gate import Case
from coterie.release.report_files import ReportFiles
from coterie.results.evaluation import EvalReport, ItemRecord
from coterie.results.release import ReleaseRecord
from coterie.text.tokenizer import Tokenizer
from tests.agents.models import chat_model
from tests.infer.models import CAUSAL
from tests.release.reports import DIGEST, report, task

LICENCE = "MIT License\n\nCopyright (c) 2026 the authors of a test\n\nPermission is hereby granted.\n"
SAFETY: dict[str, Any] = {
    "name": "refuses harmful requests",
    "task": "refusals",
    "group": "harmful",
    "items": 40,
    "share": {"value": 0.75, "low": 0.6, "high": 0.86},
    "found": {"refused": 30, "answered": 10},
    "reader": "rules",
}
LOCKED, MADE = "2026-11-01T10:00:00Z", "2026-11-01T12:00:00Z"


_KEYS: dict[str, SigningKey] = {}


def key(name: str = "publisher") -> SigningKey:
    """The key of somebody, the same in every test of a process."""
    return _KEYS.setdefault(name, SigningKey.new())


@functools.cache
def dense_model() -> LanguageModel:
    """A random dense model that babbles."""
    tokenizer = Tokenizer.train(
        ["the quick brown fox jumps over the lazy dog, 0123456789 " * 3], vocab_size=300
    )
    blocks = (BlockConfig(attention=CAUSAL, ffn=FeedForwardConfig(width=40)),) * 2
    config = ModelConfig(
        family="qwen3", vocab_size=tokenizer.vocab_size, width=32, blocks=blocks, max_positions=256
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return LanguageModel(model, tokenizer)


def write_model(path: Path, dense: bool = False) -> Path:
    """A model's directory with a licence."""
    coterie.save(dense_model() if dense else chat_model(), path)
    (path / "LICENSE").write_text(LICENCE)
    return path


def records(name: str, count: int = 40, seed: int = 0) -> list[ItemRecord]:
    """Records of replies, about half of them right."""
    chance = random.Random(f"{name} {seed}")
    found = []
    for number in range(count):
        right = chance.random() < 0.5
        made = {"digest": digest_of([name, number]), "prompt": DIGEST, "cluster": str(number // 4)}
        scores = {"score": float(right), "right": right, "lenient": float(right)}
        found.append(ItemRecord(task=name, id=str(number), reply=f"it is {number}", **made, **scores))
    return found


def write_report(model: Path, folder: Path, signer: SigningKey | None = None, **changes: Any) -> EvalReport:
    """A report of two tasks about a model, with its records, signed; `changes`: of its fields."""
    checkpoint = Checkpoint.open(model)
    loaded = coterie.load(model)
    tasks = []
    (folder / "samples").mkdir(parents=True)
    for name in ("arithmetic", "lists"):
        made = records(name)
        path = folder / "samples" / f"{name}.jsonl"
        path.write_text("".join(map(line_of, made)))
        value = sum(one.score for one in made) / len(made)
        about = {"n": len(made), "samples": samples_file(path, made).to_dict()}
        tasks.append(task(name, value, max(0.0, value - 0.1), min(1.0, value + 0.1), **about))
    facts: dict[str, Any] = {
        "created": MADE,
        "subject": model_identity(loaded.model, loaded.tokenizer, checkpoint, "tiny").to_dict(),
        "exec_profile": {
            "engine": "coterie",
            "version": "0.1.0",
            "dtype": "float32",
            "dropless": True,
            "batch_invariant": True,
        },
        "plan": {"digest": DIGEST, "locked_at": LOCKED, "ledger_pos": 0},
        "training": {
            "manifest": f"sha256:{file_sha256(model / 'coterie.json')}",
            "stages": [
                {"name": "pretrain", "data": DIGEST, "tokens": 1000, "index": DIGEST, "index_coverage": 1.0}
            ],
        },
        "safety": {"measures": [SAFETY]},
    }
    made_report = report(*tasks, **(facts | changes))
    write_json(folder / "report.json", made_report.to_dict())
    sign_report(folder, signer or key())
    return made_report


def sign_report(folder: Path, signer: SigningKey) -> None:
    """Append the statement that says the report."""
    found = EvalReport.from_dict(json.loads((folder / "report.json").read_text()))
    subjects = {"report.json": digest_of(found), "weights_tensors": found.subject.weights_tensors or DIGEST}
    append_claim(folder / CLAIMS, sign_statement(signer, subjects, EVAL_REPORT, found))


def case(model: Path, folder: Path, **more: Any) -> Case:
    """What the gate is asked about a model and a report."""
    facts: dict[str, Any] = {"keys": [key().public], "licence": model / "LICENSE"}
    return Case(Checkpoint.open(model), ReportFiles.read(folder), **(facts | more))


def release(model: Path, folder: Path, out: Path, about: str = "", **more: Any) -> ReleaseRecord:
    """A release of a model with its report."""
    return write_bundle(out, case(model, folder, **more), Publication(key(), "owner/tiny", about=about))


def change_tensor(model: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write a model's directory again with one tensor changed; its manifest is that of the new files."""
    [file] = model.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file, {"format": "pt"})


def commit_again(model: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Make a directory's manifest that of its files, as somebody would who hides a change."""
    copy = model.with_name(f"{model.name}.copy")
    shutil.move(model, copy)
    (copy / "coterie.json").unlink()
    commit_directory(model, lambda target: shutil.copytree(copy, target, dirs_exist_ok=True) and None, facts)
    shutil.rmtree(copy)
