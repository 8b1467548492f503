"""What the quantisers' own code packs is read as that code reads it.

The libraries are installed once, without their dependencies, into the user's cache, and run in processes of
their own. One that cannot be installed skips its tests with a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors

pytestmark = [pytest.mark.slow, pytest.mark.net]

KEPT = Path(os.environ.get("COTERIE_QUANTISERS", Path.home() / ".cache" / "coterie-test-quantisers"))
PACKAGES = {
    "compressed": ("compressed-tensors==0.20.1", "loguru==0.7.3"),
    "bitsandbytes": ("bitsandbytes==0.50.2",),
    "gptq": ("auto-gptq==0.7.1",),
    "awq": ("autoawq==0.2.9",),
}
CASES = {
    "compressed": ("pack4", "pack3", "zeros", "int8", "fp8", "nvfp4", "mxfp4", "mxfp8"),
    "bitsandbytes": ("nf4", "fp4", "nf4-nested", "int8"),
    "gptq": ("2", "3", "4", "8", "4-order"),
    "awq": ("gemm",),
}
INSTALL, RUN = 300, 120  # seconds


def installed(library: str) -> Path:
    """The folder of a library's packages; made once."""
    folder = KEPT / library
    if not (folder / "ready").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        command += ["--upgrade", "--target", str(folder), *PACKAGES[library]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL)
        if done.returncode:
            why = " ".join(done.stderr.split())[-200:]
            pytest.skip(f"{PACKAGES[library][0]} cannot be installed here ({why})")
        (folder / "ready").touch()
    return folder


@pytest.mark.parametrize(
    ("library", "case"), [(library, case) for library, cases in CASES.items() for case in cases]
)
def test_what_a_library_packs_is_read_as_it_reads_it(library: str, case: str, tmp_path: Path) -> None:
    script = Path(__file__).parent / "scripts" / "pack.py"
    search = os.pathsep.join([str(installed(library)), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, str(script), f"{library}:{case}", str(tmp_path)],
        check=True,
        timeout=RUN,
        env=os.environ | {"PYTHONPATH": search, "HF_HUB_OFFLINE": "1"},
    )
    description = QuantSettings(json.loads((tmp_path / "config.json").read_text()), "config.json")
    found = StoredTensors([tmp_path / "model.safetensors"], description)
    meant = load_file(tmp_path / "meant.safetensors")["x.weight"]
    assert set(found) == {"x.weight"}
    read = found.read("x.weight").to(meant.dtype)
    if (library, case) == ("bitsandbytes", "int8"):  # multiplies by 1 / 127 last
        torch.testing.assert_close(read, meant, rtol=1e-6, atol=0)
    else:
        assert torch.equal(read, meant)
