"""Tasks of lm-eval by name or from a YAML file; what stands in the way is one line.

lm-eval is an extra: nothing here is imported before a task of it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.config import ConfigError, suggest
from coterie.evaluate.harness.trouble import installed_version, one_line

PREFIX = "lm-eval:"
FEWSHOT_SEED = 1234  # lm-eval's own defaults: which examples are drawn depends on them
_SEED, _OTHER_SEED = 0, 1234
_NAMES = re.compile(
    rb"^(?:task|group|tag)\s*:\s*[\"']?([^\s\"'#\[]+)|^\s*-\s*[\"']?([\w.-]+)[\"']?\s*$", re.M
)


def harness_version() -> str:
    """The version of lm-eval. Errors: `ConfigError` where it is not installed."""
    return installed_version("lm_eval", "lm-eval", "eval")


def load_tasks(name: str) -> list[Any]:
    """The tasks of a name: one, or those of a group or tag, as lm-eval's `Task` objects.

    `name`: as lm-eval registers it, or the path of a YAML file, whose functions are then run.
    Errors: `ConfigError`, one line: unknown, not usable, or with data that is not on this machine.
    """
    harness_version()
    with quiet(), one_line(f"{PREFIX}{name}", "lm-eval"), seeded():
        loaded = _loaded(name)
    tasks = [task for _, task in sorted(loaded["tasks"].items())]
    if not tasks:
        raise ConfigError(f"{PREFIX}{name}: holds no task")
    for task in tasks:
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"{PREFIX}{task.task_name}: has images or sound, which no model here reads")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _loaded(name: str) -> Any:
    from lm_eval.tasks import TaskManager

    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"{PREFIX}{name}: there is no such file")
        return TaskManager(include_path=path.parent, include_defaults=False).load([str(path)])
    folders = _folders(name)
    if not folders:
        raise ConfigError(f"{PREFIX}{name}: lm-eval has no such task{suggest(name, _all_names())}")
    manager = TaskManager(include_path=folders, include_defaults=False)
    try:
        return manager.load([name])
    except KeyError:  # a group with members in other folders
        return TaskManager().load([name])


def _stock() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def _folders(name: str) -> list[Path]:
    """The folders of lm-eval that name this task, group or tag: reading all of them takes half a minute."""
    root, wanted = _stock(), name.encode()
    found = set()
    for path in root.rglob("*.yaml"):
        text = path.read_bytes()
        if wanted in text and any(wanted in match for match in _NAMES.findall(text)):
            found.add(root / path.relative_to(root).parts[0])
    return sorted(found)


def _all_names() -> list[str]:
    texts = (path.read_bytes() for path in _stock().rglob("*.yaml"))
    return sorted({match[0].decode() for text in texts for match in _NAMES.findall(text) if match[0]})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars and notes."""
    import datasets
    from lm_eval.api import task as module

    loggers = [logging.getLogger(each) for each in ("lm_eval", "datasets", "evaluate")]
    levels = [each.level for each in loggers]
    bars, made = datasets.is_progress_bar_enabled(), module.tqdm
    for each in loggers:
        each.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    module.tqdm = partial(made, disable=True)
    try:
        yield
    finally:
        module.tqdm = made
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """With lm-eval's seeds, since some tasks shuffle choices while they load; the streams go on after it."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(_SEED)
        np.random.seed(_OTHER_SEED)
        torch.manual_seed(_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
