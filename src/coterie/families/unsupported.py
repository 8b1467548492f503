"""Types of models that are known and not supported, and what each would need: the end of an error's line."""

from __future__ import annotations

_HYPER = "hyper-connections (several residual streams)"
_INDEXER = "an indexer that chooses the keys of each query"
_KDA = "linear attention with a decay per channel (KDA)"
_THREE = "positions in three dimensions (images and time)"
_READER = "a reader of its config.json and of what is around its text model, which does not exist yet"
_OLD = "norms with biases, learnt positions or attention and feed-forward side by side"

UNSUPPORTED: dict[str, str] = {
    "bailing_hybrid": _KDA,
    "bamba": "a reader of its config.json, which does not exist yet; granitemoehybrid is read",
    "bloom": _OLD,
    "cohere": _OLD,
    "cohere2": _OLD,
    "deepseek_v4": f"{_HYPER}, keys compressed in two ratios and routing by hashes",
    "deepseek_v41": f"{_HYPER}, keys compressed in two ratios and routing by hashes",
    "deepseek_vl": _READER,
    "ernie4_5_vl_moe": f"{_THREE} and separate experts for images",
    "falcon": _OLD,
    "falcon_h1": "Mamba2 and attention side by side in each layer",
    "falcon_mamba": "Mamba layers of the first kind",
    "gemma": "a reader of its config.json, which does not exist yet; Gemma 2 and later are read",
    "gemma3n": "several residual streams (AltUp) and weights shared between sizes of one model",
    "glm4v": _THREE,
    "glm4v_moe": _THREE,
    "glm5_next": f"{_HYPER}, {_KDA} and {_INDEXER}",
    "gpt2": _OLD,
    "gpt_neox": _OLD,
    "gptj": _OLD,
    "hy_v4": f"{_HYPER} and {_INDEXER}",
    "jamba": "Mamba layers of the first kind",
    "kimi_k3": "a design whose code transformers does not have yet",
    "kimi_linear": _KDA,
    "mamba": "Mamba layers of the first kind",
    "mamba2": "a cache without keys: none of its layers attends",
    "minimax": "lightning attention (linear, with a decay per head)",
    "minimax_m3_vl": f"{_INDEXER}, by blocks",
    "ministral": "windows that differ by layer in a Mistral; ministral3 is read",
    "mistral_large4": f"{_INDEXER} and caches that layers share",
    "mllama": "layers that attend to images",
    "molmo2": _READER,
    "mpt": "positions as biases of the scores (ALiBi)",
    "muse_spark": "experts in a narrower space than the model and gates on the residual",
    "nemotron": "norms with biases and feed-forwards without a gate",
    "olmo": "norms without weights; OLMo 2 and later are read",
    "opt": _OLD,
    "phi": _OLD,
    "phimoe": "routing that draws experts one after the other (sparsemixer)",
    "qwen2_5_vl": _THREE,
    "qwen2_vl": _THREE,
    "qwen3_omni_moe": _THREE,
    "qwen3_vl": "features of the image encoder that enter several layers",
    "qwen3_vl_moe": "features of the image encoder that enter several layers",
    "qwen4_exp": f"{_HYPER}, tables of n-gram embeddings and {_INDEXER}",
    "recurrent_gemma": "recurrent layers in place of attention",
    "rwkv": "recurrent layers in place of attention",
    "stablelm": _OLD,
    "starcoder2": _OLD,
    "step3p5": "windows and head counts that differ by layer",
    "zaya": "Mamba2 layers and attention in a compressed space",
}
