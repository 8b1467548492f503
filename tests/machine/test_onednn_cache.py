"""Compiled products of ever new numbers of rows must not pile up.

Runs in a separate process, because the size of the caches is set once.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from coterie.nn.kernels.probes import HAS_ONEDNN

LIMIT_MB = 8
PROGRAM = """
import ctypes, torch
from coterie.nn.kernels.dense import product
from coterie.machine.onednn_cache import keep_few_kernels

class Usage(ctypes.Structure):
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    _fields_ = [(name, ctypes.c_size_t) for name in (*names, "keepcost")]

usage = ctypes.CDLL(None).mallinfo2
usage.restype = Usage
weight = torch.randn(64, 64)

def multiply(first, last):
    for rows in range(first, last):
        product(torch.randn(rows, 64), weight)
    return usage().uordblks

BOUND
before = multiply(16, 216)
print((multiply(216, 466) - before) >> 20)
"""


def grown(bound: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """MB in use that 250 new numbers of rows add after 200 others."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    program = PROGRAM.replace("BOUND", bound)
    return int(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=120).stdout
    )


@pytest.mark.skipif(
    not HAS_ONEDNN or not sys.platform.startswith("linux"), reason="glibc's count, oneDNN's kernels"
)
def test_new_numbers_of_rows_do_not_add_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if grown("", monkeypatch) < 4 * LIMIT_MB:
        pytest.skip("this processor's products are not compiled per number of rows")
    assert grown("keep_few_kernels()", monkeypatch) < LIMIT_MB
