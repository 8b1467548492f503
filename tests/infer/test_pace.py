"""Long prompts delay running replies by at most the configured time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.infer import engine as engine_module
from coterie.infer.engine import Engine
from coterie.infer.pace import Pace
from coterie.infer.sampling import SamplingParams
from tests.infer.models import tiny_model

COSTS = st.floats(1e-5, 0.1)


@given(COSTS, COSTS, COSTS, st.floats(0.0, 1.0), st.integers(1, 512))
def test_steps_come_to_take_what_they_may(reply, fixed, token, max_stall, most):
    """On a machine on which reading n tokens takes `fixed + n * token`."""
    pace = Pace(max_stall)
    assert pace.budget(most) == most, "nothing is known yet"
    pace.note(fixed + most * token, most, 0)
    for _ in range(10):
        pace.note(reply, 0, 3)
    for _ in range(60):
        count = pace.budget(most)
        assert 1 <= count <= most
        pace.note(reply + fixed + count * token, count, 3)
    allowed = max(max_stall, 2.5 * reply)
    count = pace.budget(most)
    assert count <= 32 or reply + fixed + count * token <= 1.05 * allowed
    assert count == most or reply + fixed + 2 * (count + 1) * token >= 0.95 * allowed, (
        "not held back for nothing"
    )


class Clock:
    """Time that passes by tokens alone."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.steps: list[tuple[int, int]] = []  # (prompt tokens, replies) of each step
        forward = engine._forward

        def timed(plan):
            reading = sum(count for request, count in plan if not request.num_drawn)
            self.steps.append((reading, sum(1 for request, _ in plan if request.num_drawn)))
            self.now += 0.004 + 0.002 * reading
            return forward(plan)

        monkeypatch.setattr(engine, "_forward", timed)
        monkeypatch.setattr(engine_module.time, "monotonic", lambda: self.now)


def crowd(monkeypatch, **settings):
    model = tiny_model("moe", seed=3)
    engine = Engine(model, prefill_chunk=70, **settings)
    clock = Clock(engine, monkeypatch)
    prompts = torch.randint(
        model.config.vocab_size, (3, 80), generator=torch.Generator().manual_seed(0)
    ).tolist()
    events = []
    params = SamplingParams(temperature=0, max_tokens=12, stop_ids=())
    engine.add(prompts[0], params)
    for _ in range(6):
        events += engine.step()
    for prompt in prompts[1:]:
        engine.add(prompt, params)
    while engine.busy:
        events += engine.step()
    return clock.steps, [(event.request, event.token) for event in events]


def test_the_engine_reads_alone_in_whole_chunks_and_beside_replies_in_smaller_ones(monkeypatch):
    steps, paced = crowd(monkeypatch, max_stall=0.1)
    assert steps[:2] == [(70, 0), (10, 0)]
    beside = [reading for reading, replies in steps if reading and replies]
    assert len(beside) > 3 and max(beside) <= 48, beside  # 0.004 + 48 x 0.002 = 0.1
    whole_steps, whole = crowd(monkeypatch, max_stall=None)
    assert max(reading for reading, replies in whole_steps if replies) == 70
    assert sorted(paced) == sorted(whole), "the same replies"


def test_a_deterministic_engine_keeps_its_chunks(monkeypatch):
    steps, _ = crowd(monkeypatch, max_stall=0.0, deterministic=True)
    assert {reading for reading, replies in steps if reading} <= {70, 10}
