"""Replays find what was changed, with the stated power, and let honest reports pass."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.benchmarks import load_benchmark
from coterie.config import DataError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.replay import differs, drawn, noisy_power, noisy_tests, replay
from coterie.evaluate.scoring import score_benchmark
from coterie.infer.model import LanguageModel
from coterie.results.evaluation import ItemRecord
from coterie.stats.power import replay_power
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import tiny_model

TOTAL = 2000


def record(number: int, right: bool, logprobs: tuple[float, ...] = ()) -> ItemRecord:
    same = f"sha256:{number:064x}"
    return ItemRecord(
        task="t", id=str(number), digest=same, cluster=str(number), prompt=same, score=float(right),
        right=right, logprobs=list(logprobs),
    )  # fmt: skip


def honest(total: int, seed: int, rate: float = 0.6) -> list[ItemRecord]:
    random = np.random.default_rng(seed)
    return [record(number, bool(random.random() < rate)) for number in range(total)]


def inflated(records: list[ItemRecord], share: float, seed: int) -> list[ItemRecord]:
    """With `share` of all items turned from wrong to right."""
    wrong = [number for number, one in enumerate(records) if not one.right]
    chosen = set(np.random.default_rng(seed).choice(wrong, round(share * len(records)), replace=False))
    return [record(n, True) if n in chosen else one for n, one in enumerate(records)]


def caught(claimed: list[ItemRecord], true: list[ItemRecord], nonce: str, count: int) -> bool:
    places = drawn("sha256:" + "ab" * 32, nonce, count, len(claimed))
    return any(differs(claimed[place], true[place]) for place in places)


def test_two_percent_are_caught_with_149_items_in_95_of_100_of_a_thousand_draws() -> None:
    true = honest(TOTAL, 0)
    claimed = inflated(true, 0.02, 1)
    found = sum(caught(claimed, true, str(nonce), 149) for nonce in range(1000))
    expected = replay_power(TOTAL, 149, 0.02)
    assert expected >= 0.95
    # four standard deviations of a thousand draws
    assert abs(found / 1000 - expected) < 4 * (expected * (1 - expected) / 1000) ** 0.5
    assert pytest.approx(expected, abs=0.01) == 1 - (1 - 0.02) ** 149  # drawn with replacement: the spec's
    assert replay_power(TOTAL, 59, 0.05) >= 0.95 and replay_power(TOTAL, 59, 0.02) < 0.8


def test_an_honest_report_always_passes_and_a_tenth_that_was_changed_never_does() -> None:
    true = honest(TOTAL, 0)
    claimed = inflated(true, 0.10, 1)
    assert not any(caught(true, true, str(nonce), 149) for nonce in range(100))
    assert all(caught(claimed, true, str(nonce), 149) for nonce in range(100))


def test_items_are_drawn_by_report_and_nonce_alone() -> None:
    assert drawn("a", "1", 20, 100) == drawn("a", "1", 20, 100)
    assert drawn("a", "1", 20, 100) != drawn("b", "1", 20, 100) != drawn("b", "2", 20, 100)
    assert drawn("a", "1", 500, 100) == list(range(100))
    counts = np.bincount([place for n in range(400) for place in drawn("a", str(n), 20, 100)], minlength=100)
    assert abs(counts - 80).max() < 4.5 * 80**0.5  # every item is as likely


def noisy(records: list[ItemRecord], share: float, seed: int) -> list[ItemRecord]:
    random = np.random.default_rng(seed)
    return [record(n, one.right ^ bool(random.random() < share)) for n, one in enumerate(records)]


def test_noisy_mode_passes_honest_reports_and_finds_inflated_ones() -> None:
    passed, fooled = 0, 0
    for seed in range(80):
        true = honest(400, seed)
        runs = noisy(true, 0.005, 3 * seed + 1), noisy(true, 0.005, 3 * seed + 2)
        passed += noisy_tests(noisy(true, 0.005, 3 * seed), *runs).reproduced
        claimed = inflated(noisy(true, 0.005, 3 * seed), 0.10, seed)
        fooled += noisy_tests(claimed, *runs).reproduced
    assert passed >= 77 and fooled == 0  # 99 of 100 up to chance: fewer in 1 of 100 trials


def test_another_checkpoint_of_equal_accuracy_is_found() -> None:
    true = honest(200, 0)
    wrong = [n for n, one in enumerate(true) if not one.right][:20]
    right = [n for n, one in enumerate(true) if one.right][:20]
    swapped = [record(n, not one.right) if n in {*wrong, *right} else one for n, one in enumerate(true)]
    assert sum(one.right for one in swapped) == sum(one.right for one in true)
    found = noisy_tests(swapped, true, noisy(true, 0.005, 1))
    assert not found.reproduced and found.p_lost > 0.1 and found.p_flips < 1e-6


def test_log_probabilities_tell_checkpoints_that_answer_alike() -> None:
    random = np.random.default_rng(0)
    values = random.normal(-5, 1, (60, 2))

    def run(noise: float, seed: int) -> list[ItemRecord]:
        moved = values + np.random.default_rng(seed).normal(0, noise, values.shape)
        return [record(n, True, tuple(row)) for n, row in enumerate(moved.tolist())]

    assert noisy_tests(run(1e-6, 1), run(1e-6, 2), run(1e-6, 3)).reproduced
    assert not noisy_tests(run(0.05, 1), run(1e-6, 2), run(1e-6, 3)).reproduced


def test_stated_power_is_that_of_the_simulation() -> None:
    assert noisy_power(400, 0.0) < 0.01
    assert noisy_power(100, 0.02) < noisy_power(400, 0.02) < noisy_power(800, 0.02)
    assert noisy_power(400, 0.10) > 0.99


def test_replayed_items_have_the_same_bits_and_another_models_do_not() -> None:
    tokenizer = Tokenizer.train(["How much is 1 + 2? Answer: 3\n" * 9 + "Question: yes or no"], 300)
    models = [
        LanguageModel(tiny_model("moe", seed, tokenizer.vocab_size, 160).eval(), tokenizer) for seed in (0, 1)
    ]
    benchmark = load_benchmark("arithmetic", n=12)
    options = ReplyOptions(max_tokens=4, form="plain")
    claimed = score_benchmark(LocalSubject(models[0], "a"), benchmark, options).records
    places = drawn("report", "nonce", 5, len(claimed))
    some = [claimed[place] for place in places]
    again = replay(LocalSubject(models[0], "a"), benchmark, options, some)
    assert [differs(a, b) for a, b in zip(some, again, strict=True)] == [""] * 5
    other = replay(LocalSubject(models[1], "b"), benchmark, options, some)
    assert any(differs(a, b) for a, b in zip(some, other, strict=True))
    changed = [one.model_copy(update={"digest": "sha256:" + "0" * 64}) for one in some]
    with pytest.raises(DataError, match="is another one here"):
        replay(LocalSubject(models[0], "a"), benchmark, options, changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": 0.0, "right": False}, "score 1 in the report, 0 now"),
        ({"reply": "x"}, "another reply"),
        ({"prompt": "sha256:" + "1" * 64}, "another prompt"),
        ({"logprobs": [-1.0, -2.0 - 1e-7]}, "other log-probabilities"),
        ({"failed": True}, "the checker failed"),
    ],
)
def test_differences_are_named(change: dict[str, object], says: str) -> None:
    one = record(0, True, (-1.0, -2.0))
    again = one.model_copy(update=change)
    assert differs(one, again) == says
    assert differs(one, one) == ""
    if "logprobs" in change:
        assert differs(one, again, tolerance=1e-6) == ""
