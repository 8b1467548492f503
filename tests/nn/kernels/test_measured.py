"""What is measured once per machine: the choice, its file, and what decides instead of it."""

from __future__ import annotations

import json

import pytest
import torch

from coterie.config import ConfigError
from coterie.nn.kernels import measured
from coterie.nn.kernels.measured import VARIABLE
from coterie.nn.kernels.probes import WORK, probe, ways


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose cache is empty and whose products take the seconds that a test says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(measured, "probe", lambda work: dict.fromkeys(("torch", *ways(work)), work))
    made = Machine()
    monkeypatch.setattr(measured, "_measure", made.measure)
    measured.forget()
    yield made
    measured.forget()


class Machine:
    """`share`: the time of every other way over PyTorch's own."""

    share = 0.5
    measurements = 0

    def measure(self, calls):
        self.measurements += 1
        return {way: self.share for way in calls if way != "torch"}


def files():
    return list(measured.user_cache().glob("products-*.json"))


def test_a_way_must_be_clearly_faster(machine):
    for share, other in ((0.5, True), (0.93, True), (0.97, False), (1.5, False)):
        machine.share = share
        for file in files():
            file.unlink()
        measured.forget()
        for work in WORK:
            assert (measured.fastest(work) != "torch") is other


def test_one_measurement_serves_all_processes(machine):
    before = measured.choices()
    (file,) = files()
    assert machine.measurements == len(WORK)
    measured.forget()
    machine.share = 2.0  # a later process would find other times
    assert measured.choices() == before and machine.measurements == len(WORK)
    record = json.loads(file.read_text())
    assert record["threads"] == torch.get_num_threads() and record["torch"] == torch.__version__


def test_the_first_of_two_processes_that_measure_decides(machine, monkeypatch):
    measured.choices()
    (file,) = files()
    first, read = file.read_text(), measured._read
    absent = iter([True])
    monkeypatch.setattr(measured, "_read", lambda path: None if next(absent, False) else read(path))
    measured.forget()
    machine.share = 2.0
    assert set(measured.choices().values()) != {"torch"} and file.read_text() == first


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"shares": {"row": 1}}'])
def test_a_damaged_file_is_measured_anew(machine, content):
    measured.choices()
    (file,) = files()
    whole = file.read_text()
    file.write_text(content)
    measured.forget()
    measured.choices()
    assert machine.measurements == 2 * len(WORK) and file.read_text() == whole


def test_without_a_writable_cache_the_choice_holds_for_the_process(machine, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured.choices()
    machine.share = 2.0
    assert "torch" not in measured.choices().values() and machine.measurements == len(WORK)


def test_the_variable_decides_without_measuring(machine, monkeypatch):
    monkeypatch.setenv(VARIABLE, "onednn, blocks")
    for work in WORK:
        assert measured.fastest(work) == ways(work)[-1]
    measured.forget()
    monkeypatch.setenv(VARIABLE, "torch")
    assert set(measured.choices().values()) == {"torch"}
    monkeypatch.setenv(VARIABLE, "fast")
    measured.forget()
    with pytest.raises(ConfigError, match=f"{VARIABLE}: 'fast' is no way of a product; use measure, torch"):
        measured.fastest("row")
    assert machine.measurements == 0 and not files()


def test_what_a_run_held_is_held_again(machine, monkeypatch):
    assert measured.in_use() is None
    measured.choices()
    held = {"attention_float32": "blocks", "row": "no such way", "other": "onednn", "many_rows": ["torch"]}
    assert measured.hold(held)
    assert measured.in_use() == dict.fromkeys(WORK, "torch") | {"attention_float32": "blocks"}
    monkeypatch.setenv(VARIABLE, "torch")
    assert not measured.hold(held) and measured.fastest("attention_float32") == "torch"


def test_every_probe_runs_whatever_the_mode_and_leaves_the_generator(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(measured, "_ROUNDS", 1)
    measured.forget()
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.device("meta"):
        found = measured.described()
    measured.forget()
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == list(WORK) and all("of torch's time" in text for text in found.values())
    assert all(set(probe(work)) == {"torch", *ways(work)} for work in ("row", "wide_weight_gradient"))
