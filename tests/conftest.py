"""What every test shares: Hugging Face libraries offline, one hypothesis profile, and a fresh logger."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Set before any Hugging Face library is imported: a test that needs the network is marked `net` and clears it
# itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No result of a test depends on what is fastest on this machine, or was when another process measured it.
os.environ["COTERIE_PRODUCTS"] = "turned,onednn,blocks"

# No deadline: the machine may be shared, and a slow first example (an import, a compile) is no failure.
settings.register_profile(
    "coterie", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("coterie")


def pytest_collection_finish() -> None:
    """Leave what the imports have made, which stays, out of every later search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of a GPU is skipped where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")


@pytest.fixture(autouse=True)
def _messages_of_one_test() -> Iterator[None]:
    """A command of the CLI installs a handler on the logger `coterie`; the next test starts without it."""
    log = logging.getLogger("coterie")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def _state_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What servers keep goes to a folder of the tests, never to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, so none waits for the disk; tests of a full disk make `os.fsync` fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a closed descriptor is still an error
        yield
