"""One published model through everything: SmolLM2-135M-Instruct, from its GGUF file and back to GGUF.

Each test is a step that a user would take, in this order; a step works on what earlier ones wrote and is
skipped where they failed. `make test-real` runs them, `bench/real_model.py` also records their figures.
What the steps write is kept in $COTERIE_REAL_FOLDER where that is set, so that one step can be run again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.real import smollm2, smollm2_gguf
from tests.real.command import measured

pytestmark = [pytest.mark.slow, pytest.mark.real]
QUESTION = "What is the capital of France?"
TEXT = Path(__file__).parents[2] / "docs" / "train.md"
LONG = 600  # tokens that logits are compared on
# The model's own template shows no tools, which some of the starter conversations use.
SMALL = ("batch_rows=1", "row_length=512", "--template", "chatml", "--lr", "1e-3", "dtype=float32")
CONVERSATIONS = "starter#64"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class Steps:
    """The folder that the steps share.

    `figures`: by step, kept in the file $COTERIE_REAL_FIGURES if set, with those of earlier runs.
    """

    folder: Path
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def made(self, name: str) -> str:
        """The path of what an earlier step wrote."""
        path = self.folder / name
        if not path.exists():
            pytest.skip(f"an earlier step did not write {name}")
        return str(path)

    def new(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, step: str, *words: str, given: str = "") -> str:
        """What a command printed; its seconds and peak memory become figures of `step`."""
        said, cost = measured(list(words), given)
        self.note(step, **cost)
        return said

    def note(self, step: str, **numbers: Any) -> None:
        self.figures.setdefault(step, {}).update(numbers)
        if file := os.environ.get("COTERIE_REAL_FIGURES"):
            Path(file).write_text(json.dumps(self.figures, indent=1))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    kept = os.environ.get("COTERIE_REAL_FOLDER")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("smollm2")
    if not (folder / "model.gguf").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        smollm2_gguf(folder).rename(folder / "model.gguf")
    file = Path(os.environ.get("COTERIE_REAL_FIGURES") or folder / "none")
    yield Steps(folder, json.loads(file.read_text()) if file.is_file() else {})
    if not kept:
        shutil.rmtree(folder)  # several gigabytes


def encoded(path: str | Path, text: str) -> list[int]:
    tokenizer = Checkpoint.open(path).tokenizer
    assert tokenizer is not None
    return list(tokenizer.encode(text))


def text_ids(path: str | Path) -> list[int]:
    return encoded(path, TEXT.read_text())[:LONG]


def logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.tensor(ids), ForwardContext.packed([len(ids)])))


def fp32_logits(path: str | Path, ids: list[int]) -> torch.Tensor:
    return logits(Checkpoint.open(path).load("float32").model, ids)


def tensors(path: str | Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        if "probes" not in file.name:
            found |= load_file(file)
    return found


def test_inspect(steps: Steps) -> None:
    found = json.loads(steps.run("inspect", "inspect", steps.made("model.gguf"), "--json"))
    assert found["parameters"]["total"] == 134_515_008
    steps.note("inspect", parameters=found["parameters"]["total"])


def test_logits_are_those_of_transformers(steps: Steps) -> None:
    """Our reader of GGUF and our model, against transformers' reader and model, in float32."""
    transformers = pytest.importorskip("transformers")
    reference = smollm2()
    ids = text_ids(steps.made("model.gguf"))
    assert ids == transformers.AutoTokenizer.from_pretrained(reference)(TEXT.read_text())["input_ids"][:LONG]
    begun = time.process_time()
    loaded = Checkpoint.open(steps.made("model.gguf")).load("float32").model
    ours, seconds = logits(loaded, ids), time.process_time() - begun
    config = loaded.config
    del loaded
    theirs = transformers.AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    assert_model_close(config, ours, expected, LONG)
    steps.note(
        "logits", cpu_seconds=seconds, max_difference=float((ours - expected).abs().max()), tokens=LONG
    )


def test_chat(steps: Steps) -> None:
    given = f"{QUESTION}\n\n"
    said = steps.run("chat", "chat", steps.made("model.gguf"), "--temperature", "0", given=given)
    assert "Paris" in said


def test_tune(steps: Steps) -> None:
    words = [
        "tune",
        steps.made("model.gguf"),
        CONVERSATIONS,
        "-o",
        steps.new("tuned"),
        "--steps",
        "3",
        *SMALL,
    ]
    steps.run("tune", *words)
    report = json.loads(Path(steps.made("tuned/report.json")).read_text())
    assert report.get("failed") is None and report["proof"]["gravity"] > 0.9
    steps.note("tune", gravity=report["proof"]["gravity"], steps=3)


def test_merge(steps: Steps) -> None:
    words = ["merge", steps.made("model.gguf"), steps.made("tuned/adapter"), "-o", steps.new("merged")]
    # So few steps change the weights by less than bfloat16 resolves, and a merge into it is refused.
    found = json.loads(steps.run("merge", *words, "--dtype", "float32", "--json"))
    assert found["gravity"] > 0.9
    steps.note("merge", gravity=found["gravity"])


def test_convert(steps: Steps) -> None:
    words = ["convert", steps.made("merged"), "--to", "hf", "--dtype", "bfloat16", "-o", steps.new("small")]
    steps.run("convert", *words)
    size = sum(file.stat().st_size for file in Path(steps.made("small")).glob("model*.safetensors"))
    assert size < 1.01 * 2 * 134_515_008
    steps.note("convert", file_bytes=size)


def test_upcycle(steps: Steps) -> None:
    """Eight copies of each feed-forward are the same function, in float32 to 1e-5 nats."""
    words = ["surgery", "upcycle", steps.made("small"), "-o", steps.new("moe"), "--experts", "8"]
    steps.run("upcycle", *words, "--data", str(TEXT), "--json")
    ids = text_ids(steps.made("moe"))
    dense, moe = (fp32_logits(steps.made(name), ids).log_softmax(-1) for name in ("small", "moe"))
    # The likely tokens; rounding grows with the size of a logit.
    apart = float((dense - moe).abs().mean())
    assert apart < 1e-5
    steps.note("upcycle", mean_difference=apart, max_difference=float((dense - moe).abs().max()))


def test_the_exact_way_back(steps: Steps) -> None:
    """Where nothing was trained, the dense model comes back bit for bit."""
    words = ["surgery", "densify", steps.made("moe"), "-o", steps.new("back"), "--data", str(TEXT)]
    steps.run("densify, untrained", *words)
    before, after = tensors(steps.made("small")), tensors(steps.made("back"))
    assert before.keys() == after.keys()
    different = [name for name in before if not torch.equal(before[name], after[name])]
    assert not different
    steps.note("densify, untrained", different_tensors=len(different))


def test_tune_the_experts_only(steps: Steps) -> None:
    words = ["tune", steps.made("moe"), CONVERSATIONS, "-o", steps.new("experts"), "--steps", "2", *SMALL]
    steps.run("tune experts", *words, "--train", "experts=lora", "retention=none")
    with safe_open(steps.made("experts/adapter/adapter_model.safetensors"), "pt") as factors:
        names = list(factors.keys())
    assert names and all("experts" in name for name in names)
    report = json.loads(Path(steps.made("experts/report.json")).read_text())
    assert report["proof"]["gravity"] > 0.9
    steps.note("tune experts", gravity=report["proof"]["gravity"], steps=2)


def test_routing_report(steps: Steps) -> None:
    words = ["routing", steps.made("moe"), steps.made("experts/adapter"), "--data", str(TEXT)]
    found = json.loads(
        steps.run("routing", *words, "--max-tokens", "500", "-o", steps.new("routing.html"), "--json")
    )
    assert len(found["drift"]["layers"]) == 30 and Path(steps.made("routing.html")).stat().st_size > 10_000
    overlaps = [layer["overlap"] for layer in found["drift"]["layers"].values()]
    steps.note("routing", overlap=sum(overlaps) / len(overlaps))


def test_merge_experts_and_densify(steps: Steps) -> None:
    words = ["merge", steps.made("moe"), steps.made("experts/adapter"), "-o", steps.new("moe-tuned")]
    steps.run("merge experts", *words, "--dtype", "float32", "--json")
    words = ["surgery", "densify", steps.made("moe-tuned"), "-o", steps.new("dense"), "--data", str(TEXT)]
    found = json.loads(steps.run("densify, trained", *words, "--json"))["perplexity"]
    # Experts that a few steps moved are near copies, so little is lost.
    assert found["after"] < 1.5 * found["before"]
    steps.note("densify, trained", perplexity_before=found["before"], perplexity_after=found["after"])


def test_serve(steps: Steps) -> None:
    pytest.importorskip("openai")
    model = coterie.load(steps.made("merged"), dtype="float32")
    ask: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": QUESTION}]}
    ask |= {"temperature": 0, "max_tokens": 16}
    with coterie.openai_client(model) as client:
        begun = time.process_time()
        whole = client.chat.completions.create(**ask)
        seconds = time.process_time() - begun
        chunks = client.chat.completions.create(**ask, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Paris" in whole.choices[0].message.content
    assert "".join(pieces) == whole.choices[0].message.content
    steps.note("serve", cpu_seconds=seconds, tokens=whole.usage.completion_tokens)


def test_tools(steps: Steps) -> None:
    """A template with tools, and a call that must satisfy its schema."""
    pytest.importorskip("openai")
    model = coterie.load(steps.made("merged"), dtype="float32", template="chatml")
    messages = [{"role": "user", "content": "How is the weather in Paris?"}]
    with coterie.openai_client(model) as client:
        begun = time.process_time()
        reply = client.chat.completions.create(
            model="model",
            messages=messages,
            tools=[WEATHER],
            tool_choice="required",
            temperature=0,
            max_tokens=64,
        )
        seconds = time.process_time() - begun
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    steps.note("tools", cpu_seconds=seconds, arguments=call.function.arguments)


@pytest.mark.parametrize("quant", ["f32", "q8_0", "q4_k_m"])
def test_export_to_gguf(steps: Steps, quant: str) -> None:
    words = ["convert", steps.made("merged"), "--to", "gguf", "--quant", quant, "--json"]
    steps.run(f"export {quant}", *words, "-o", steps.new(f"{quant}.gguf"))
    said = steps.run(f"run {quant}", "run", steps.made(f"{quant}.gguf"), QUESTION, "--temperature", "0")
    assert "Paris" in said
    steps.note(f"export {quant}", file_bytes=Path(steps.made(f"{quant}.gguf")).stat().st_size)


# Divergence in nats per token. With weights and cache in float32 both compute the same; where the weights are
# blocks, llama.cpp also rounds the activations to 8 bits.
@pytest.mark.parametrize(("quant", "limit"), [("f32", 1e-5), ("q8_0", 0.02), ("q4_k_m", 0.02)])
def test_llama_cpp_runs_the_export(steps: Steps, quant: str, limit: float) -> None:
    """The same file in both programs."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed: pip install llama-cpp-python==0.3.36")
    import llama_cpp

    file = steps.made(f"{quant}.gguf")
    ids = text_ids(file)[:200]
    ours = fp32_logits(file, ids)
    float32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    theirs = llama_cpp.Llama(file, n_ctx=512, n_threads=1, logits_all=True, verbose=False, **float32)
    try:
        assert theirs.tokenize(QUESTION.encode(), add_bos=False) == encoded(file, QUESTION)
        begun = time.process_time()
        theirs.eval(ids)
        seconds = time.process_time() - begun
        found = torch.tensor(theirs.scores[: len(ids)])
        answer = theirs.create_chat_completion(
            [{"role": "user", "content": QUESTION}], temperature=0, max_tokens=16
        )
    finally:
        theirs.close()
    here, there = ours.log_softmax(-1), found.log_softmax(-1)
    divergence = float((here.exp() * (here - there)).sum(-1).mean())
    apart, same = (
        float((ours - found).abs().max()),
        float((ours.argmax(-1) == found.argmax(-1)).float().mean()),
    )
    assert abs(divergence) < limit and (quant != "f32" or apart < 1e-3)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    steps.note(
        f"llama.cpp {quant}",
        cpu_seconds=seconds,
        max_difference=apart,
        divergence=divergence,
        same_best_token=same,
    )
