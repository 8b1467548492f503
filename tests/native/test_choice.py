"""The one place that decides whether a model has a native plan, and what it says."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from coterie.config import ConfigError
from coterie.infer.engine import Engine
from coterie.native import choice
from coterie.native.choice import describe, plan_for
from coterie.native.plan import NativePlan
from tests.infer.models import tiny_model


def test_each_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("dense")
    assert plan_for(model, "torch") == "PyTorch's products were asked for"
    assert "the model is small" in str(plan_for(model))
    strange = tiny_model("dense")
    strange.blocks[1].attention = torch.nn.Identity()
    assert plan_for(strange, "native") == "the native step does not know layers of kind Identity"
    half = tiny_model("dense").to(torch.float16)
    assert "torch.float16" in str(plan_for(half, "native"))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert plan_for(model, "native") == "NUMBA_DISABLE_JIT is set"


def test_auto_takes_the_native_step_for_larger_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "SMALL", 1000)
    plan = plan_for(tiny_model("dense"))
    assert isinstance(plan, NativePlan) and describe(plan) == "native (f32)"


def test_native_without_a_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--kernels native: the native step does not know .*; use auto or"):
        Engine(tiny_model("dense").to(torch.float16), kernels="native")


def test_a_wrong_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from coterie.native import self_test

    self_test._check.cache_clear()
    monkeypatch.setattr(self_test, "_TOLERANCE", 0.0)
    try:
        assert "a product of kind 0 is wrong" in str(plan_for(tiny_model("dense"), "native"))
    finally:
        self_test._check.cache_clear()


def run(program: str, **environment: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=300, check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
    )  # fmt: skip
    return done.stdout.strip()


BLOCKED = """
    import sys
    sys.modules["numba"] = None
    from coterie.infer.engine import Engine
    from coterie.native import choice
    from tests.infer.models import tiny_model
    choice.SMALL = 0
    engine = Engine(tiny_model("moe"))
    print(choice.readiness())
    print(engine.kernels_used, "|", len(engine.generate([[1, 2]])[0].ids) > 0)
"""


def test_without_numba_everything_runs_on_torch() -> None:
    ready, said = run(BLOCKED).splitlines()
    assert ready.startswith("not usable (") and ready.endswith("PyTorch is used")
    assert said.startswith("torch: numba cannot be imported (") and said.endswith("| True")


AGAIN = """
    import time
    import torch
    from coterie.native.choice import plan_for
    from tests.infer.models import tiny_model
    model = tiny_model("moe")
    import numba
    begun = time.process_time()
    print(type(plan_for(model, "native")).__name__, time.process_time() - begun)
"""


@pytest.mark.slow
def test_an_older_processor_gives_the_same_tokens_and_a_second_start_is_quick(tmp_path: Path) -> None:
    """AVX2 alone; and the second process finds the code in the cache."""
    where = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": "x86-64-v3", "HOME": str(tmp_path)}
    kind, first = run(AGAIN, **where).split()
    _, second = run(AGAIN, **where).split()
    assert kind == "NativePlan" and float(second) < float(first) / 3
    program = """
        import pytest, sys
        chosen = ["tests/native/test_plan.py", "-k", "kind or threads"]
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *chosen]))
    """
    assert "failed" not in run(program, **where)
