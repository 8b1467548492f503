"""Reinforcement on a task with tools, end to end: the calls are given, the answers are the model's own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.directory import save_model
from coterie.config.errors import ConfigError
from coterie.config.reinforce import ReinforceConfig
from coterie.families import config_from_hf
from coterie.infer.request import RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.recipes import reinforce as recipe
from coterie.recipes import reinforce_parts
from coterie.recipes.reinforce import reinforce
from coterie.reinforce.rollouts import Sampler
from coterie.tasks.problem import TaskProblem, TaskVerdict
from coterie.tasks.tool_chains import ToolChains
from tests.families.hf import _BASE, CONFIGS
from tests.reinforce.forced import Forced
from tests.text.calling import call_text, tokenizer_of

SMALL: dict[str, Any] = {
    "steps": 2, "prompts": 3, "group": 4, "max_tokens": 44, "max_turns": 2, "eval_problems": 2,
    "eval_every": 0, "save_every": 0, "method": "full", "lr": 1e-2, "threads": 1, "levels": "0", "refills": 2,
    "least_groups": 1, "pass_at": {"problems": 0},
}  # fmt: skip


class CallsFirst(Sampler):
    """A model that is made to call the calculator, and is free afterwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        add, tokenizer = self._engine.add, self.tokenizer
        written = tokenizer.encode(
            call_text(tokenizer, "calculator", '{"expression":"6 * 7"}') + "<|im_end|>", allow_special=True
        )

        def forced(ids: Iterable[int], params: SamplingParams, options: RequestOptions) -> int:
            prompt = list(ids)
            if "</tool_response>" not in tokenizer.decode(prompt):
                options = replace(options, filter=Forced(list(written), self.model.config.vocab_size))
            return add(prompt, params, options)

        self._engine.add = forced  # type: ignore[method-assign]


def judged(self: ToolChains, problem: TaskProblem, reply: str) -> TaskVerdict:
    """A point for an answer that begins with a small letter."""
    return TaskVerdict.of(reply[:1].islower(), None)


def start(folder: Path) -> None:
    """A fresh mixture of experts."""
    tokenizer = tokenizer_of("chatml")
    sizes = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 1024}
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3_moe"] | sizes))
    model.initialise(0)
    save_model(folder / "start", model, tokenizer)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run."""
    start(tmp_path)
    monkeypatch.setattr(reinforce_parts, "_GATE_PROBLEMS", 4)
    monkeypatch.setattr(reinforce_parts, "_GATE_GROUP", 4)
    monkeypatch.setattr(reinforce_parts, "Sampler", CallsFirst)
    monkeypatch.setattr(recipe, "require_passed", lambda family: None)
    monkeypatch.setattr(ToolChains, "judge", judged)
    reinforce(str(tmp_path / "start"), "tool-chains", out=str(tmp_path / "run"), gate=False, **SMALL)
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_learns_from_what_the_model_wrote_alone(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "rollout"]
    assert len(steps) == 2 and all(step["mismatch"] < 1e-4 and not step["routing_flips"] for step in steps)
    kept = [
        json.loads(line)
        for path in sorted((run / "rollouts").glob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert {one["reward"] for one in kept} == {0.0, 1.0} and all(len(one["turns"]) == 2 for one in kept)
    call, result = kept[0]["turns"]
    assert call["tool_calls"][0]["function"] == {"name": "calculator", "arguments": {"expression": "6 * 7"}}
    assert (result["role"], result["content"], result["name"]) == ("tool", "42", "calculator")
    assert [sampled for sampled, _ in kept[0]["segments"]] == [True, False, True]
    sampled = [token for is_sampled, ids in kept[0]["segments"] if is_sampled for token in ids]
    assert sampled == kept[0]["ids"] and len(kept[0]["logprobs"]) == len(sampled) <= SMALL["max_tokens"]
    written = json.loads((run / "reinforce.json").read_text())
    assert written["config"]["max_turns"] == 2
    assert all("calculator gave: 42" in sample["after"]["content"] for sample in written["samples"])
    # Prompts and results are read and not learnt: the loop counted what the model wrote.
    rewarded = sum(len(one["ids"]) for one in kept if one["learnt"])
    assert written["tokens_trained"] >= rewarded


def test_settings_of_tools_need_tools(tmp_path: Path) -> None:
    start(tmp_path)
    with pytest.raises(ConfigError, match="'max_turns' needs a task with tools"):
        reinforce(str(tmp_path / "start"), "parity", out=str(tmp_path / "run"), max_turns=3, max_tokens=4)
    with pytest.raises(ConfigError, match="max_turns"):
        ReinforceConfig.from_dict({"model": "m", "task": "tool-chains", "max_turns": 0}, "reinforce")
