"""Clients with pinned dependencies, each in its own environment: lm-eval and openai-agents (slow)."""

from __future__ import annotations

import json

import pytest

from tests.arithmetic import approx_model
from tests.clients import environment, run
from tests.serve.support import language_model, serving

pytestmark = pytest.mark.slow

DOCS = [
    {"question": f"{i} plus 1 is", "choices": [str(i + 1), str(i), "a little fox"], "gold": 0}
    for i in range(12)
]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATED = """
task: tiny_words
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def test_lm_eval_scores_are_those_of_the_model(tmp_path):
    python = environment("lm-eval", "lm-eval[api]==0.4.13")
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    for name, text in (("choice", TASK), ("words", GENERATED)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    model = language_model()
    with serving(model) as server:
        shared = "model=tiny,num_concurrent=4,max_retries=1,tokenized_requests=True"
        run(
            python,
            [
                "-m",
                "lm_eval",
                "run",
                "--model",
                "local-completions",
                "--tasks",
                "tiny_choice,tiny_words",
                "--include_path",
                ".",
                "--output_path",
                "out",
                "--log_samples",
                "--batch_size",
                "4",
                "--model_args",
                f"base_url={server.url}/v1/completions,{shared},tokenizer_backend=remote",
            ],
            tmp_path,
        )
        chat = shared.replace("tokenized_requests=True", "tokenized_requests=False")
        run(python, ["-m", "lm_eval", "run", "--model", "local-chat-completions", "--tasks", "tiny_words",
                     "--include_path", ".", "--output_path", "chat", "--apply_chat_template", "--model_args",
                     f"base_url={server.url}/v1/chat/completions,{chat}"], tmp_path)  # fmt: skip
    samples = next((tmp_path / "out").rglob("samples_tiny_choice_*.jsonl")).read_text().splitlines()
    assert len(samples) == 12 and list((tmp_path / "chat").rglob("results_*.json"))
    for line in samples:
        sample = json.loads(line)
        for choice, ((logprob, greedy),) in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            whole = model.tokenizer.encode(f"{sample['doc']['question']} {choice}")
            start = model.tokenizer.encode(sample["doc"]["question"])
            assert whole[: len(start)] == start
            expected = model.logprobs(whole)[len(start) - 1 :]
            assert float(logprob) == approx_model(model.config, float(expected.sum()), len(whole))
            best = model.logits(whole)[len(start) - 1 : -1].argmax(-1).tolist()
            assert (str(greedy) == "True") == (best == whole[len(start) :])


AGENT = """
import asyncio, json, sys
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from agents import function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)
called = []

@function_tool
def add(a: int, b: int) -> str:
    called.append((a, b))
    return str(a + b)

async def main():
    client = AsyncOpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        called.clear()
        settings = ModelSettings(tool_choice="required", max_tokens=120, parallel_tool_calls=False,
                                 extra_body={"seed": 1, "logit_bias": {"3": -100, "2": 15}})
        model = kind(model="tiny", openai_client=client)
        agent = Agent(name="a", instructions="Add.", tools=[add], model=model,
                      model_settings=settings, reset_tool_choice=True)
        result = await Runner.run(agent, "1+1?", max_turns=3)
        streamed = Runner.run_streamed(agent, "1+1?", max_turns=3)
        async for _ in streamed.stream_events():
            pass
        kinds = [type(run.final_output).__name__ for run in (result, streamed)]
        print(json.dumps([len(called), *kinds]))

asyncio.run(main())
"""


def test_openai_agents_call_tools_over_both_apis(tmp_path):
    python = environment("openai-agents", "openai-agents==0.24.0")
    with serving(language_model(max_positions=2048)) as server:
        lines = run(python, ["-c", AGENT, server.url + "/v1"], tmp_path).splitlines()
    for line in lines:
        calls, plain, streamed = json.loads(line)
        assert calls >= 2 and plain == streamed == "str"
    assert len(lines) == 2
