"""How functions are compiled, and where numba keeps what it compiled.

numba finds compiled code again by the file of a function alone. Here kernels also depend on other files of
their package (on a table's layout, on emitted products) and of this one. So each state of a package has its
own folder.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
from numba import cfunc, njit, types

from coterie.config.system import user_cache

_settings: Any = numba.config
_LOCK = threading.RLock()
# Sums may be taken in any order, which is then the same at every call: nothing here depends on the number of
# rows or threads.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@functools.cache
def folder(package: str) -> Path:
    """Of this state of a package, in NUMBA_CACHE_DIR or else in coterie's part of the user's cache.

    Where neither can be written, a temporary one of this process.
    """
    digest = hashlib.sha256()
    own = find_spec(package)
    assert own is not None and own.origin is not None
    for part in (Path(__file__).parent, Path(own.origin).parent):
        for path in sorted(part.glob("*.py")):
            digest.update(path.read_bytes())
    name = f"{package.rpartition('.')[2]}-{digest.hexdigest()[:16]}"
    try:
        given = os.environ.get("NUMBA_CACHE_DIR")
        path = (Path(given) if given else user_cache()) / name
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError:  # numba would fall back to a folder that does not tell one state from another
        path = Path(tempfile.mkdtemp(prefix=name))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
        return path


@contextmanager
def _kept(function: Callable[..., Any]) -> Iterator[None]:
    """numba looks for its folder when a function is declared."""
    with _LOCK:
        before = _settings.CACHE_DIR
        _settings.CACHE_DIR = str(folder(function.__module__.rpartition(".")[0]))
        try:
            yield
        finally:
            _settings.CACHE_DIR = before


def _declared(function: Callable[..., Any], **options: Any) -> Any:
    with _kept(function):
        return njit(
            nogil=True, cache=True, boundscheck=False, error_model="numpy", fastmath=_FAST, **options
        )(function)


def fast(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call."""
    return _declared(function)


def inline(function: Callable[..., Any]) -> Any:
    """The same for one that becomes a part of its callers, so that literals stay literals in it."""
    return _declared(function, inline="always")


@functools.cache
def c_function(function: Callable[..., Any], num_arguments: int) -> Any:
    """A C function of that many int64 without result. It is kept, because nothing else holds its code."""
    with _kept(function):
        kind = types.void(*([types.int64] * num_arguments))
        return cfunc(kind, cache=True, error_model="numpy", fastmath=_FAST)(function)
