"""No damaged or hostile file ends in a traceback, a hang or a balloon: it is read, or refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from coterie.adapters.apply import apply_shared
from coterie.adapters.attach import attach
from coterie.adapters.files import read_adapter, save_adapter
from coterie.adapters.patch import attach_subset, save_patch
from coterie.adapters.tools import inspect_adapter
from coterie.checkpoints import commit
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.inspect import inspect_model
from coterie.checkpoints.train_state import TrainState, read_train_state, write_train_state
from coterie.config import CoterieError
from coterie.config.selection import ExpertSelection
from coterie.config.tune import TuneConfig
from coterie.gguf.export import export_gguf
from coterie.gguf.readback import put_back
from coterie.train.callbacks import read_records
from tests.adapters.test_attach import config, randomise_factors
from tests.adapters.test_patch import disturb
from tests.gguf.models import write
from tests.mutations import damaged

SECONDS = 20  # for one file, on a slow and busy machine; most take 0.03 s


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole example of every kind of file that is read."""
    return make_whole(tmp_path_factory.mktemp("whole"))


def make_whole(folder: Path) -> Path:
    torch.manual_seed(0)
    origin = load_model(write("qwen3_moe", folder / "origin"))
    save_model(folder / "model", origin.model, origin.tokenizer, probes=True)
    model = load_model(folder / "model").model
    attach(model, config())
    randomise_factors(model)
    save_adapter(folder / "adapter", model, folder / "model", origin.tokenizer)
    model = load_model(folder / "model").model
    attach_subset(model, ExpertSelection(experts={0: (0, 2)}))
    disturb(model)
    save_patch(folder / "patch", model, folder / "model")
    export_gguf(folder / "model", folder / "gguf" / "m.gguf", "q8_0")
    state = TrainState({"step": 3, "seed": 2**60}, {"m": torch.ones(3)}, {"order": {"at": 5}})
    write_train_state(folder / "state", state)
    (folder / "state" / "metrics.jsonl").write_text(
        "".join(json.dumps({"kind": "train", "step": step, "loss": 1.5}) + "\n" for step in range(5))
    )
    (folder / "settings").mkdir()
    TuneConfig(model="m", data=["a.jsonl"], out="o").to_yaml(folder / "settings" / "tune.yaml")
    ExpertSelection(experts={0: (0, 2)}).to_file(folder / "settings" / "selection.json")
    return folder


def read_model(path: Path) -> None:
    inspect_model(str(path))
    checkpoint = Checkpoint.open(path)
    loaded = checkpoint.load(check=checkpoint.probes is not None)
    assert isinstance(checkpoint.stops, tuple) and checkpoint.stored_dtype
    if loaded.tokenizer is not None:
        loaded.tokenizer.encode("a word, <|endoftext|> and more")


def read_settings(path: Path) -> None:
    TuneConfig.from_yaml(path / "tune.yaml")
    ExpertSelection.from_file(path / "selection.json")


def readers(folder: Path) -> dict[str, Callable[[Path], object]]:
    """The kinds of directories, and what reads all that is in one."""
    base = Checkpoint.open(folder / "model")
    model = base.load().model

    def read_an_adapter(path: Path) -> None:
        files = read_adapter(path)
        apply_shared(model, files, random_base(path, base), base.tokenizer)
        inspect_adapter(path, base)

    def read_state(path: Path) -> None:
        read_train_state(path)
        read_records(path / "metrics.jsonl")

    def read_a_gguf(path: Path) -> None:
        if len(path.name) % 2:
            read_model(path / "m.gguf")
        else:
            put_back(copy.deepcopy(model), base, path / "m.gguf")

    return {
        "model": read_model,
        "adapter": read_an_adapter,
        "patch": lambda path: apply_shared(model, path),
        "gguf": read_a_gguf,
        "state": read_state,
        "settings": read_settings,
    }


def random_base(path: Path, base: Checkpoint) -> Checkpoint | None:
    return base if len(path.name) % 2 else None


def reseal(folder: Path, changed: str, content: bytes) -> None:
    """Let the manifest vouch for the damage, so that what lies behind it is reached."""
    file = folder / commit.MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        if changed != commit.MANIFEST:
            manifest.pop("sampled", None)
            manifest["files"][changed] = [len(content), hashlib.sha256(content).hexdigest()]
        manifest["sha256"] = commit._own_hash(manifest)
        file.unlink()
        file.write_text(json.dumps(manifest))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass


def campaign(whole: Path, scratch: Path, seed: int, count: int) -> Counter[str]:
    """Damage `count` files one after another and read each; raises with the first that ends otherwise."""
    random, found = Random(seed), Counter[str]()
    kinds = readers(whole)
    weights = {"model": 10, "adapter": 6, "patch": 3, "gguf": 3, "state": 2, "settings": 2}
    for number in range(count):
        kind = random.choices(list(weights), list(weights.values()))[0]
        folder = scratch / f"{kind}{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole / kind, folder, copy_function=os.link)
        file = random.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        content = damaged(file.name, file.read_bytes(), random)
        file.unlink()
        file.write_bytes(content)
        if random.random() < 0.8:
            reseal(folder, file.relative_to(folder).as_posix(), content)
        started = time.process_time()
        try:
            kinds[kind](folder)
            found[f"{kind} read"] += 1
        except CoterieError as error:
            found[f"{kind} refused"] += 1
            assert len(str(error)) < 1000 + 4 * len(str(folder)), (seed, number, file.name, str(error)[:300])
        except BaseException as error:
            traceback.print_exc()
            raise AssertionError(f"seed {seed}, case {number}: {file} gave {error!r:.300}") from error
        assert time.process_time() - started < SECONDS, (seed, number, file.name)
        shutil.rmtree(folder)
    return found


def test_a_damaged_file_is_read_or_refused(whole: Path, tmp_path: Path) -> None:
    found = campaign(whole, tmp_path, seed=1, count=60)
    assert found.total() == 60 and sum(n for name, n in found.items() if name.endswith("refused")) > 30


CAMPAIGN = """
import resource, sys, tempfile
from pathlib import Path
from tests.test_hostile_files import campaign, make_whole
seed, count = map(int, sys.argv[1:3])
with tempfile.TemporaryDirectory() as folder:
    whole = make_whole(Path(folder) / "whole")
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    (Path(folder) / "scratch").mkdir()
    print(dict(sorted(campaign(whole, Path(folder) / "scratch", seed, count).items())))
"""


@pytest.mark.slow
def test_a_long_campaign_in_bounded_memory() -> None:
    command = [sys.executable, "-c", CAMPAIGN, "7", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
