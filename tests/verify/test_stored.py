"""One directory against its own records: models, adapters and patches, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.adapters.patch import attach_subset, save_patch
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CoterieError
from coterie.verify.stored import check_stored
from tests.adapters.test_attach import built, config, randomise_factors
from tests.adapters.test_patch import disturb, selection
from tests.checkpoints.opens import count_opens


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", built("qwen3_moe"), probes=True)
    model = load_model(tmp_path / "model").model
    attach(model, config())
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "model")
    model = load_model(tmp_path / "model").model
    attach_subset(model, selection("qwen3_moe"))
    disturb(model)
    save_patch(tmp_path / "patch", model, tmp_path / "model")
    return tmp_path


def test_every_kind_is_opened_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("model", "adapter"):
        found = check_stored(str(saved / kind))
        assert found.difference is not None and found.difference.mean_logprob < 1e-5
        assert found.base == saved / "model"
    assert check_stored(str(saved / "patch")).difference is None
    opened = count_opens(monkeypatch)
    check_stored(str(saved / "model"))
    assert set(opened.values()) == {1}, opened


@pytest.mark.parametrize(("kind", "exit_code"), [("model", 1), ("adapter", 2), ("patch", 2)])
def test_damage_is_found(saved: Path, kind: str, exit_code: int) -> None:
    (file,) = (saved / kind).glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x41
    file.write_bytes(content)
    with pytest.raises(CoterieError) as error:
        check_stored(str(saved / kind))
    assert error.value.exit_code == exit_code


def test_a_model_without_probes_cannot_be_checked(tmp_path: Path) -> None:
    save_model(tmp_path / "model", built("qwen3_moe"))
    with pytest.raises(CoterieError, match="holds no probes") as error:
        check_stored(str(tmp_path / "model"))
    assert error.value.exit_code == 2
