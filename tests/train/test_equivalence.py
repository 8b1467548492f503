"""Runs that must agree step by step: accumulated, resumed, killed, packed, padded, sparse, decoded."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coterie.checkpoints.commit import RunLock, step_path
from coterie.checkpoints.directory import load_state_into
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.cli.messages import show_messages
from coterie.data.rows import Row
from coterie.families import config_from_hf
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.train import Callback, Interrupts, JsonlLog, SaveCheckpoint, Trainer, read_records, resume
from tests.arithmetic import approx, assert_close, assert_model_close, tolerance
from tests.forked import Forked
from tests.nn.test_moe import reference as run_every_expert
from tests.train.support import (
    STEPS,
    VOCAB,
    Keep,
    load_model,
    loss_sums,
    make_row,
    make_trainer,
    step_sums,
    write_model,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_run(first: Keep, second: Keep) -> None:
    """Losses and weights agree up to rounding after every step.

    AdamW and Muon divide a gradient by its size, and the step that follows is `lr` (0.02) long: gradients 50
    times smaller than the largest err by as much as weights do. GROWTH covers the few that are smaller.
    """
    assert len(first.losses) == len(second.losses) == len(first.weights) == STEPS
    for step, (a, b) in enumerate(zip(first.weights, second.weights, strict=True)):
        loss = approx(first.losses[step], *loss_sums(step + 1))
        assert second.losses[step] == loss, f"loss of step {step}"
        for name in a:
            assert_close(b[name], a[name], *step_sums(step + 1), name=f"{name} after step {step}")


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize(("batch_rows", "accumulate"), [(1, 4), (2, 2)])
def test_accumulation_does_not_change_a_step(optimiser, batch_rows, accumulate):
    whole, parts = Keep(), Keep()
    make_trainer(whole, batch_rows=4, optimiser=optimiser).run()
    make_trainer(parts, batch_rows=batch_rows, accumulate=accumulate, optimiser=optimiser).run()
    assert_same_run(whole, parts)
    for a, b in zip(whole.records, parts.records, strict=True):
        for name in ("tokens", "dead_experts", "worst_overload"):
            assert a[name] == b[name]
    assert whole.losses[0] - whole.losses[-1] > 0.2  # it learns, so agreement is not that of a standstill


def test_sparse_experts_train_like_running_every_expert(monkeypatch):
    sparse, every = Keep(), Keep()
    make_trainer(sparse).run()
    monkeypatch.setattr(MoE, "forward", run_every_expert)
    make_trainer(every).run()
    assert_same_run(sparse, every)


def test_the_engine_says_after_every_step_what_training_says():
    trainer = make_trainer()
    for step in range(STEPS):
        trainer.step()
        trainer.model.eval()
        reply = Engine(trainer.model).generate([[step + 1, 3, 5]], SamplingParams(max_tokens=8, seed=step))[0]
        ids = torch.tensor([step + 1, 3, 5, *reply.ids])
        with torch.no_grad():
            h_TD = trainer.model(ids[:-1], ForwardContext.packed([len(ids) - 1]))
            expected = token_logprobs(h_TD, trainer.model.head_weight, ids[1:])[2:]
        assert_model_close(trainer.model.config, torch.tensor(reply.logprobs), expected, len(ids))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_is_bit_exact(tmp_path, optimiser):
    whole = Keep()
    trainer = make_trainer(whole, optimiser=optimiser)
    trainer.run()

    first = make_trainer(optimiser=optimiser)
    first.callbacks = [SaveCheckpoint(tmp_path, write_model(first.model), every=6)]
    while first.step_count < 6:
        first.step()
    first.callbacks[0].after_step(first)

    rest = Keep()
    second = make_trainer(rest, optimiser=optimiser)
    for parameter in second.model.parameters():
        parameter.data.fill_(9.0)  # nothing may survive from the fresh model
    assert resume(second, tmp_path, load_model(second.model)) == step_path(tmp_path, 6)
    assert (second.step_count, second.next_sample) == (6, 24)
    second.run()
    assert rest.losses == whole.losses[6:]
    for ours, theirs in zip(rest.weights, whole.weights[6:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = second.state(), trainer.state()
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], value) for name, value in theirs.tensors.items())
    assert {**ours.progress, "seconds": 0} == {**theirs.progress, "seconds": 0}


def test_leaving_any_group_of_the_state_out_would_be_seen(tmp_path):
    """Proves that the test above can fail: a resume without one part of the state diverges."""
    for group in ("optimiser.", "buffer."):
        whole = Keep()
        make_trainer(whole).run()
        first = make_trainer()
        while first.step_count < 6:
            first.step()
        state = first.state()
        for name in state.tensors:
            if name.startswith("buffer.") and group == "buffer.":
                state.tensors[name] = torch.full_like(state.tensors[name], 1 / 6)
        if group == "optimiser.":
            state.tensors = {
                name: value for name, value in state.tensors.items() if not name.startswith(group)
            }
        rest = Keep()
        second = make_trainer(rest)
        second.model.load_state_dict(first.model.state_dict())
        second.load_state(state)
        second.run()
        assert rest.losses != whole.losses[6:], group


def test_a_resume_from_the_published_layout_is_bit_exact(tmp_path):
    """The same through the Hugging Face directory of a mixture-of-experts family."""
    config = config_from_hf(
        {
            "model_type": "qwen3_moe",
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "intermediate_size": 24,
            "moe_intermediate_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "router_aux_loss_coef": 0.02,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
        }
    )

    def model_of(seed: int) -> Transformer:
        model = Transformer(config)
        model.initialise(seed)
        return model

    whole, rest = Keep(), Keep()
    make_trainer(whole, model=model_of(0)).run()
    first = make_trainer(model=model_of(0))
    first.callbacks = [SaveCheckpoint(tmp_path, lambda path: write_model_files(path, first.model), every=6)]
    while first.step_count < 6:
        first.step()
    first.callbacks[0].after_step(first)
    second = make_trainer(rest, model=model_of(1))
    resume(second, tmp_path, lambda path: load_state_into(second.model, path))
    second.run()
    assert rest.losses == whole.losses[6:]
    assert all(torch.equal(value, whole.weights[-1][name]) for name, value in rest.weights[-1].items())


def one_document_rows(sample: int) -> list[Row]:
    """The documents of `make_row(sample)`, each as a separate row."""
    row = make_row(sample)
    rows, start = [], 0
    for length in row.lengths[:-1] if row.num_padding else row.lengths:
        part = slice(start, start + length)
        rows.append(Row(row.ids[part], row.targets[part], row.weights[part], (length,), 0))
        start += length
    return rows


def test_packed_documents_train_like_separate_ones():
    packed, apart = Keep(), Keep()
    make_trainer(packed).run()
    trainer = make_trainer(apart, accumulate=4)
    rows = (one_document_rows(sample) for sample in range(4 * STEPS))
    trainer.batches = lambda start: rows
    trainer.run()
    assert_same_run(packed, apart)


def test_padding_changes_nothing():
    plain, padded = Keep(), Keep()
    make_trainer(plain, row=lambda i: make_row(i, padding=0)).run()

    def with_padding(sample: int) -> Row:
        row = make_row(sample, padding=0)
        junk = np.full(7, sample % 31, dtype=np.int32)
        weights = np.concatenate([row.weights, np.zeros(7, dtype=np.float32)])
        return Row(np.append(row.ids, junk), np.append(row.targets, junk), weights, (*row.lengths, 7), 7)

    make_trainer(padded, row=with_padding).run()
    assert_same_run(plain, padded)
    assert [r["tokens"] for r in plain.records] == [r["tokens"] for r in padded.records]


class Slow(Callback):
    """Says each step and waits, so that a signal can be sent in between."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def after_step(self, trainer: Trainer) -> None:
        if self.pause:
            print(trainer.step_count, flush=True)
            time.sleep(self.pause)


def run_in(out: Path, pause: float = 0.0) -> str:
    """A whole run of 20 steps in `out`, from the step that it has reached."""
    with RunLock(out):
        trainer = make_trainer(steps=20)
        save = SaveCheckpoint(out, write_model(trainer.model), every=3, keep=2)
        trainer.callbacks = [save, JsonlLog(out / "metrics.jsonl"), Slow(pause), Interrupts("run it again")]
        resume(trainer, out, load_model(trainer.model))
        return trainer.run()


def shown_run(out: Path, pause: float) -> None:
    """The same in another process, which says how it ended."""
    torch.set_num_threads(1)
    show_messages()
    print(run_in(out, pause), flush=True)


def assert_same_outcome(first: Path, second: Path) -> None:
    """Same final weights, optimiser state and loss curve, bit for bit."""
    for name in ("model.safetensors", "train/optimizer.safetensors"):
        ours, theirs = load_file(step_path(first, 20) / name), load_file(step_path(second, 20) / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs), (
            name
        )
    timing = ("seconds", "tokens_per_second", "eta_s")
    runs = [read_records(path / "metrics.jsonl") for path in (first, second)]
    plain = [
        [{key: value for key, value in r.items() if key not in timing} for r in records] for records in runs
    ]
    assert plain[0] == plain[1] and [r["step"] for r in plain[0]] == list(range(1, 21))


def test_kill_and_interrupt_then_go_on_gives_the_uninterrupted_weights(tmp_path):
    rng = random.Random()
    whole, killed, stopped = tmp_path / "whole", tmp_path / "killed", tmp_path / "stopped"
    assert run_in(whole) == "finished"

    process = Forked(shown_run, killed, 0.02)
    step, moment = rng.randrange(1, 18), rng.random() * 0.06  # between or inside steps and saves
    while int(process.stdout.readline()) < step:
        pass
    time.sleep(moment)
    assert process.kill() == -signal.SIGKILL
    assert run_in(killed) == "finished"
    assert_same_outcome(whole, killed)

    process = Forked(shown_run, stopped, 0.05)
    while int(process.stdout.readline()) < 4:
        pass
    sent, reason = rng.choice([(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
    process.send_signal(sent)
    output, errors = process.stdout.read(), process.stderr.read()
    assert process.wait() == 0 and output.splitlines()[-1] == reason
    line = errors.strip().splitlines()[-1]
    step = json.loads((sorted(stopped.glob("step-*"))[-1] / "coterie.json").read_text())["step"]
    assert 4 <= step < 20 and line.startswith(f"stopped after step {step}, saved as ")
    assert line.endswith("to go on: run it again")
    assert run_in(stopped) == "finished"
    assert_same_outcome(whole, stopped)


def test_prompts_can_stay_out_of_the_statistics_of_routers() -> None:
    """Only learnt positions count then, also as divisor of the balance loss; accumulation changes nothing."""
    found = []
    for batch_rows, accumulate in ((4, 1), (1, 4)):
        trainer = make_trainer(batch_rows=batch_rows, accumulate=accumulate, steps=1, balance_prompts=False)
        counts: list[torch.Tensor] = []
        router = trainer.model.routers()[0][1]  # type: ignore[operator]
        commit = router.balance.commit
        router.balance.commit = lambda bias: (counts.append(router.balance.counts_E.clone()), commit(bias))[1]  # noqa: B023
        trainer.run()
        rows = [make_row(sample) for sample in range(4)]
        assert int(counts[0].sum()) == 2 * sum(int(row.weights.sum()) for row in rows)
        found.append((counts[0], {name: p.detach().clone() for name, p in trainer.model.named_parameters()}))
    assert torch.equal(found[0][0], found[1][0])
    for name, value in found[0][1].items():
        assert_close(found[1][1][name], value, *step_sums(), name=name)
    everything = make_trainer(batch_rows=4, steps=1)
    everything.run()
    differ = [
        n
        for n, p in everything.model.named_parameters()
        if (p - found[0][1][n]).abs().max() > tolerance(p, *step_sums())
    ]
    assert any("router" in name for name in differ)
