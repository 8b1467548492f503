"""The type that a model runs in, by what is stored, what the processor does well and what is asked for."""

from pathlib import Path

import pytest
import torch

import coterie
from coterie.checkpoints import running_dtype as module
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.running_dtype import running_dtype
from coterie.config import ConfigError, Precision
from coterie.recipes.quantise import quantise_checkpoint
from tests.proof.test_records import make

CPU = torch.device("cpu")
SLOW = "; bfloat16 is slow on this cpu)"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in each type that weights are stored in."""
    folder = tmp_path_factory.mktemp("stored")
    for name in ("float32", "bfloat16", "float16"):
        save_model(folder / name, make(), dtype=name)
    codes = Precision.parse("int8,block=8")
    quantise_checkpoint(folder / "bfloat16", folder / "codes", codes, outputs=False)
    return {name: folder / name for name in ("float32", "bfloat16", "float16", "codes")}


@pytest.mark.parametrize(
    ("name", "fast", "slow"),
    [
        ("float32", "float32 (as stored)", "float32 (as stored)"),
        ("bfloat16", "bfloat16 (as stored)", f"float32 (stored as bfloat16{SLOW}"),
        (
            "float16",
            "bfloat16 (stored as float16)",
            f"float32 (stored as float16{SLOW}",
        ),
        ("codes", "bfloat16 (stored in codes)", f"float32 (stored in codes{SLOW}"),
    ],
)
def test_auto(
    stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, fast: str, slow: str
) -> None:
    for best, said in ((torch.bfloat16, fast), (torch.float32, slow)):
        monkeypatch.setattr(module, "choose_dtype", lambda requested, device, best=best: best)
        model = coterie.load(stored[name], quant="stored")
        assert str(model.dtype) == said
        assert model.model.compute_dtype == model.model.embed.weight.dtype == model.dtype.dtype


def test_what_is_asked_for_is_done(stored: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(stored["bfloat16"])
    for name in ("float32", "bfloat16", "float16"):
        assert str(running_dtype(name, checkpoint, CPU)) == f"{name} (asked for)"
    with pytest.raises(ConfigError, match="'int8' is not known; use one of auto, float32, bfloat16, float16"):
        running_dtype("int8", checkpoint, CPU)


def test_widened_codes_stay_exact(stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose_dtype", lambda requested, device: torch.bfloat16)
    for quant in (None, "none"):
        said = str(coterie.load(stored["codes"], quant=quant).dtype)
        assert said == "float32 (stored in codes, which are widened)"


def test_a_record_of_probes_is_checked_in_its_own_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "choose_dtype", lambda requested, device: torch.bfloat16)
    save_model(tmp_path / "m", make(), dtype="bfloat16", probes=True)
    assert coterie.load(tmp_path / "m", check=True).dtype.dtype == torch.bfloat16
