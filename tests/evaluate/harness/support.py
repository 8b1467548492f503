"""Two tiny models in Hugging Face's layout, and three local tasks of 200 items in all."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from coterie.text.tokenizer import Tokenizer

POSITIONS = 96
WORDS = "river stone apple winter seven garden paper silver north cloud green table light water house".split()
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen3"},
    "moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
}


def sentence(draw: random.Random, low: int = 4, high: int = 12) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))


def save_model(folder: Path, kind: str, starts_texts: bool = True, seed: int = 3) -> Path:
    """A model with random weights, norms and biases, and a tokenizer trained on the tasks' words."""
    draw = random.Random(1)
    texts = [sentence(draw, 10, 60) + ". Question: which? Answer:\n" for _ in range(200)]
    tokenizer = Tokenizer.train(texts, 330, starts_texts=starts_texts)
    config = AutoConfig.for_model(**SHAPE | KINDS[kind] | {"vocab_size": tokenizer.vocab_size})
    model = AutoModelForCausalLM.from_config(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
            if "norm" in name:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def save_tasks(folder: Path) -> dict[str, Path]:
    """YAML files and data: 80 questions with choices, 70 with a short answer, 50 texts."""
    draw = random.Random(2)
    choices = [
        {
            "question": sentence(draw) + ("  " if number % 7 == 0 else ""),
            "choices": [sentence(draw, 1, 1 if number % 3 == 0 else 6) for _ in range(4)],
            "gold": draw.randrange(4),
        }
        for number in range(80)
    ]
    choices[5]["question"] = sentence(draw, 70, 80)  # longer than the model's positions
    short = [{"question": sentence(draw), "answer": draw.choice(WORDS)} for _ in range(69)]
    short.append({"question": sentence(draw, 120, 130), "answer": "stone"})
    texts = [{"text": sentence(draw, 3, 300 if number % 9 == 0 else 40)} for number in range(50)]
    tasks: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "local_choices": (
            choices,
            {
                "output_type": "multiple_choice",
                "doc_to_text": "Question: {{question}}\nAnswer:",
                "doc_to_choice": "choices",
                "doc_to_target": "gold",
                "num_fewshot": 2,
                "metric_list": [_metric("acc"), _metric("acc_norm")],
            },
        ),
        "local_short": (
            short,
            {
                "output_type": "generate_until",
                "doc_to_text": "{{question}}",
                "doc_to_target": "answer",
                "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False},
                "metric_list": [_metric("exact_match")],
            },
        ),
        "local_texts": (
            texts,
            {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
            },
        ),
    }
    return {name: _save_task(folder, name, *parts) for name, parts in tasks.items()}


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _save_task(folder: Path, name: str, docs: list[dict[str, Any]], settings: Mapping[str, Any]) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    path = folder / f"{name}.yaml"
    whole = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **settings}
    if settings.get("num_fewshot"):
        whole["fewshot_split"] = "test"
    path.write_text(yaml.safe_dump(whole))
    return path
