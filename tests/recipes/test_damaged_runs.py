"""Run directories with damaged, truncated, foreign or newer files: one clear line, and nothing is lost.

Every case changes one file of a stopped run and gives the same command again. The run must either go on (from
an older checkpoint, or from data prepared anew) or end with one line and leave the checkpoints as they were.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.checkpoints.commit import MANIFEST, commit_directory, read_manifest, travelling
from coterie.config import CoterieError
from coterie.config.run import TrainConfig
from coterie.recipes.pretrain import pretrain
from coterie.train.callbacks import Interrupts
from tests.cli.support import MODEL

ODD: list[Any] = [None, True, -1, 0.5, 2**70, "x", "", [], [1], {}, {"a": {}}]
# Changed together with the manifest, as another version would have written them.
STATE, OPTIMISER = SIGNED = ("train/state.json", "train/optimizer.safetensors")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, a run of six steps that was stopped after the fourth, and its `text`."""
    place = tmp_path_factory.mktemp("damaged")
    (place / "text").mkdir()
    for index in range(12):
        words = [f"w{(index * 31 + at * at) % 89}" for at in range(80)]
        (place / "text" / f"{index}.txt").write_text(" ".join(words))
    run_of(place / "run", place / "text").to_yaml(place / "run.yaml")

    class Stop(Interrupts):
        def on_record(self, trainer: Any, record: Any) -> None:
            if trainer.step_count == 4:
                trainer.stop("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coterie.recipes.run.Interrupts", Stop)
        assert pretrain(run_of(place / "run", place / "text")).reason == "interrupted"
    return place


def run_of(out: Path, text: Path) -> TrainConfig:
    settings = {
        "model": MODEL | {"num_hidden_layers": 1},
        "data": {"sources": [str(text)], "vocab_size": 280, "row_length": 32},
        "steps": 6,
        "batch_rows": 2,
        "save_every": 2,
        "eval_every": 2,
        "out": str(out),
        "threads": 1,
    }
    return TrainConfig.from_dict(settings)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in plain JSON, containers included; lists by their first entry."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from leaves(item, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(copy[path[0]], path[1:], new)
    return copy


def without(value: Any, path: tuple[Any, ...]) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


def sign(checkpoint: Path, change: Any = None) -> None:
    """Write the manifest of a changed checkpoint anew, with `change` made to its own keys."""
    about = travelling(read_manifest(checkpoint))
    aside = checkpoint.with_name("aside")
    checkpoint.rename(aside)
    (aside / MANIFEST).unlink()
    commit_directory(
        checkpoint,
        lambda to: shutil.copytree(aside, to, dirs_exist_ok=True) and None,
        change(about) if change else about,
    )
    shutil.rmtree(aside)


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def change_file(run: Path, file: str, dice: random.Random) -> str:
    """Change one file of a run at random; returns what was done."""
    path = newest(run) / file if file in (*SIGNED, MANIFEST) else next(iter(sorted(run.glob(file))))
    kind = dice.choice(["value", "value", "value", "missing", "cut", "byte", "empty", "text"])
    raw = path.read_bytes()
    lines = path.suffix == ".jsonl"
    plain: Any = None
    if kind in ("value", "missing"):
        if path.suffix not in (".json", ".jsonl", ".yaml"):
            kind = "byte"
        else:
            plain = [json.loads(line) for line in raw.splitlines()] if lines else yaml.safe_load(raw)
    done = kind
    if kind in ("value", "missing"):
        paths = [path for path in leaves(plain) if path]
        at = dice.choice(paths)
        new = dice.choice(ODD)
        plain = without(plain, at) if kind == "missing" else with_value(plain, at, new)
        done = f"{kind} {at} {new!r}"
        if file == MANIFEST:
            if at[0] in ("format", "files", "sha256"):
                path.write_text(json.dumps(plain))
            else:
                about = {
                    key: value for key, value in plain.items() if key not in ("format", "files", "sha256")
                }
                sign(path.parent, lambda _: about)
            return f"{file}: {done}"
        text = "".join(json.dumps(one) + "\n" for one in plain) if lines else json.dumps(plain)
        path.write_text(text)
    elif kind == "cut":
        path.write_bytes(raw[: dice.randrange(len(raw))] if raw else b"")
    elif kind == "byte":
        at = dice.randrange(max(1, len(raw)))
        path.write_bytes(raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_text("<html>not found</html>")
    if file in SIGNED:
        sign(newest(run))
    return f"{file}: {done}"


FILES = [
    "config.yaml",
    "metrics.jsonl",
    STATE,
    MANIFEST,
    OPTIMISER,
    "checkpoints/*/model.safetensors",
    "data/*/card.json",
    "data/*/train/shard.json",
    "data/*/train/*.idx",
    "data/*/train/*.npy",
    "data/*/train/*.bin",
    "data/*/tokenizer/tokenizer.json",
    "data/*/tokenizer/tokenizer_config.json",
]


def check(stopped: Path, work: Path, seed: int) -> str:
    """One case: change a file, give the command again. Returns how it ended."""
    dice = random.Random(seed)
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(stopped / "run", run)
    done = change_file(run, FILES[seed % len(FILES)], dice)
    kept = {path: path.read_bytes() for path in run.glob("checkpoints/*/**/*") if path.is_file()}
    config = run_of(run, stopped / "text")
    try:
        result = pretrain(config)
    except CoterieError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 600, (done, said)
        gone = [path for path, was in kept.items() if not path.is_file() or path.read_bytes() != was]
        assert not gone, (done, said, gone)
        assert not list(run.rglob("*.tmp-*")), done
        return f"{type(error).__name__}"
    except BaseException as error:
        raise AssertionError(f"seed {seed}, {done}") from error
    assert result.reason == "finished" and result.steps == 6, done
    return "went on"


def test_a_stopped_run_with_one_changed_file_goes_on_or_says_why(stopped: Path, tmp_path: Path) -> None:
    for seed in range(len(FILES)):
        check(stopped, tmp_path, seed)


@pytest.mark.slow
def test_many_changed_files(stopped: Path, tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    for seed in range(600):
        end = check(stopped, tmp_path, seed)
        counts[end] = counts.get(end, 0) + 1
    print(counts)
    assert len(counts) > 2
