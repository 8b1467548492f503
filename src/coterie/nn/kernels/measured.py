"""Which of several ways of the same work is fastest on this machine: measured once, then kept.

No way is chosen by one processor's habits. At the first need every class of work (`probes`) is measured, in
about half a second; the choice is kept in the user's cache for this processor, PyTorch, instruction set and
number of threads. Where nothing can be written it holds for the process. The first writer wins, so that
processes which start together choose alike.

`COTERIE_PRODUCTS` chooses instead: `torch` for PyTorch's own way everywhere, or ways in order of preference
(`turned,onednn,blocks`), of which each class takes the first that it has. It takes nothing from the cache, so
that results do not depend on what was measured.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from coterie.config.errors import ConfigError
from coterie.config.files import read_json
from coterie.config.system import processor_kind, user_cache
from coterie.config.temporaries import replace_with, temporary
from coterie.nn.kernels.probes import WORK, Way, probe, ways

VARIABLE = "COTERIE_PRODUCTS"
_ROUNDS = 7
# Another way than PyTorch's own is taken below this share of its time.
_CLEARLY = 0.95
# Variables that hide a part of the instruction set from PyTorch's libraries.
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA")

_log = logging.getLogger(__name__)
_lock = threading.RLock()
_chosen: dict[int, Mapping[str, str]] = {}  # number of threads -> class of work -> way
_shares: dict[int, Mapping[str, Mapping[str, float]]] = {}  # the same -> way -> its time over PyTorch's own


def fastest(work: str) -> str:
    """The way of a class of work: `torch` (PyTorch's own), or another one that is clearly faster here."""
    chosen = _chosen.get(torch.get_num_threads())
    return (chosen if chosen is not None else choices()).get(work, "torch")


def choices() -> Mapping[str, str]:
    """Class of work -> way, for the present number of threads; measured or read where that is still to do."""
    threads = torch.get_num_threads()
    with _lock:
        if threads not in _chosen:
            forced = _forced()
            _chosen[threads] = _kept(threads) if forced is None else forced
        return _chosen[threads]


def in_use() -> Mapping[str, str] | None:
    """The choices that this process has made, for the present number of threads; None before the first."""
    return _chosen.get(torch.get_num_threads())


def hold(chosen: Mapping[str, Any]) -> bool:
    """Take these choices from now on; False where `COTERIE_PRODUCTS` says others, which then holds.

    What is unknown here is left out.
    """
    known = {work: way for work, way in chosen.items() if work in WORK and way in ("torch", *ways(work))}
    wanted, forced = dict.fromkeys(WORK, "torch") | known, _forced()
    _chosen[torch.get_num_threads()] = wanted if forced is None else forced
    return forced in (None, wanted)


def forget() -> None:
    """Choose anew at the next need."""
    with _lock:
        _chosen.clear()
        _shares.clear()


def machine() -> str:
    """The processor and its instruction set, as far as PyTorch may use it."""
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    return ", ".join([processor_kind(), str(torch.backends.cpu.get_cpu_capability()), *limits])


def described() -> dict[str, str]:
    """Class of work -> its way in words, with its time where it was measured; for `coterie doctor`."""
    chosen, shares = choices(), _shares.get(torch.get_num_threads(), {})
    result = {}
    for work, way in chosen.items():
        others = [f"{name} {share:.2f}" for name, share in shares.get(work, {}).items()]
        result[work] = f"{way} (of torch's time: {', '.join(others)})" if others else f"{way} ({VARIABLE})"
    return result


def _forced() -> Mapping[str, str] | None:
    words = [word.strip() for word in os.environ.get(VARIABLE, "measure").split(",") if word.strip()]
    if words in ([], ["measure"]):
        return None
    known = ("torch", "onednn", "turned", "blocks")
    for word in words:
        if word not in known:
            raise ConfigError(f"{VARIABLE}: '{word}' is no way of a product; use measure, {', '.join(known)}")
    return {work: next((word for word in words if word in ("torch", *ways(work))), "torch") for work in WORK}


def _kept(threads: int) -> Mapping[str, str]:
    """What the file of this machine says, else what measuring says, which is then written to it."""
    known = {work: list(ways(work)) for work in WORK}
    key = {"machine": machine(), "torch": torch.__version__, "threads": threads, "ways": known}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = user_cache() / f"products-{digest[:16]}.json"
    shares = _read(path)
    if shares is None:
        began = time.perf_counter()
        with _undisturbed():
            shares = {work: _measure(probe(work)) for work in WORK}
        _log.debug("products measured in %.2f s", time.perf_counter() - began)
        shares = _write(path, key | {"shares": shares}) or shares
    _shares[threads] = shares
    return {work: _best(found) for work, found in shares.items()}


def _best(shares: Mapping[str, float]) -> str:
    way, share = min(shares.items(), key=lambda item: item[1])
    return way if share < _CLEARLY else "torch"


def _measure(calls: Mapping[str, Way]) -> dict[str, float]:
    """Each other way's time over that of PyTorch's own: the median of rounds in turn."""
    own = calls["torch"]
    shares: dict[str, list[float]] = {name: [] for name in calls if name != "torch"}
    for call in calls.values():
        call()
    for _ in range(_ROUNDS):
        seconds = _seconds(own)
        for name, found in shares.items():
            found.append(_seconds(calls[name]) / max(seconds, 1e-9))
    return {name: round(statistics.median(found), 3) for name, found in shares.items()}


def _seconds(call: Way) -> float:
    """One thread: what the thread itself has spent, which other work on the machine disturbs least."""
    clock: Callable[[], float] = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


class _undisturbed:
    """Gradients are on, and no mode of PyTorch (a device, a trace, a profile) sees what is measured."""

    def __enter__(self) -> None:
        self._parts = (_disable_current_modes(), torch.inference_mode(False), torch.enable_grad())
        for part in self._parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self._parts):
            part.__exit__(None, None, None)


def _read(path: Path) -> dict[str, dict[str, float]] | None:
    """The times in a file; None where it is missing or damaged."""
    try:
        shares = read_json(path)["shares"]
        found = {work: {way: float(shares[work][way]) for way in ways(work)} for work in WORK}
    except (ConfigError, KeyError, TypeError, ValueError):
        return None
    return found


def _write(path: Path, record: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    """Write a new file, and return what it holds: another process may have been first."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            if _read(path) is None:
                replace_with(part, path)
        return _read(path)
    return None
