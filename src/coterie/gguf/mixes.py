"""The mixes of types that llama.cpp writes under names such as Q4_K_M: which matrix gets which type.

Rules of its quantiser without an importance matrix. Matrices that lose most from rounding get more bits: the
head, some of the values and of the last matrices of feed-forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from coterie.checkpoints.gguf_file.types import BY_NAME
from coterie.config import ModelConfig, MoEConfig
from coterie.config.mixers import Mamba2Config, ShortConvConfig
from coterie.config.model import AttentionConfig

# Values of `quant` -> the type of most matrices.
MIXES = {
    "q2_k": "Q2_K",
    "q3_k_s": "Q3_K",
    "q3_k_m": "Q3_K",
    "q3_k_l": "Q3_K",
    "q4_k_s": "Q4_K",
    "q4_k_m": "Q4_K",
    "q5_k_s": "Q5_K",
    "q5_k_m": "Q5_K",
    "q6_k": "Q6_K",
}
# What takes the place of a type whose blocks of 256 a row does not fill.
_NARROWER = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True)
class MixFacts:
    """What the rules ask of a model.

    `sharing`: query heads for each head of keys and values. `valued`: the layers with a matrix of values,
    which are counted apart from the others; empty: all. `fed`: of a model without experts, the layers with a
    feed-forward, whose place is counted among them; empty: it is the layer's.
    """

    layers: int
    experts: int
    sharing: int
    tied: bool
    valued: tuple[int, ...] = ()
    fed: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: ModelConfig, tied: bool) -> MixFacts:
        """The facts of a model whose file has no tensor for the head (`tied`), or has one."""
        experts = [
            block.ffn.router.num_experts for block in config.blocks if isinstance(block.ffn, MoEConfig)
        ]
        shared = [
            block.attention.num_heads // block.attention.num_kv_heads
            for block in config.blocks
            if isinstance(block.attention, AttentionConfig)
        ]
        valued = tuple(
            index
            for index, block in enumerate(config.blocks)
            if block.attention is not None and not isinstance(block.attention, ShortConvConfig | Mamba2Config)
        )
        fed = tuple(index for index, block in enumerate(config.blocks) if block.ffn and not experts)
        return cls(config.num_layers, max(experts, default=0), max(shared, default=1), tied, valued, fed)


def mixed_type(name: str, length: int, quant: str, facts: MixFacts) -> tuple[str, str]:
    """The type of a matrix with rows of `length` numbers, and the reason where blocks of 256 do not fit."""
    wanted = _wanted(name, quant, facts)
    if length % BY_NAME[wanted].block == 0:
        return wanted, ""
    found = _NARROWER.get(wanted, wanted)
    found = found if length % BY_NAME[found].block == 0 else "F16"
    return found, f"rows of {length} numbers do not fill blocks of {BY_NAME[wanted].block}"


def _wanted(name: str, quant: str, facts: MixFacts) -> str:
    if name == "output.weight" or (name == "token_embd.weight" and facts.tied):
        return "Q6_K"
    part = name.split(".")
    if part[0] != "blk":
        return MIXES[quant]
    layer, matrix = int(part[1]), part[2]
    values = matrix in ("attn_v", "attn_qkv")
    if facts.experts == 8 and (values or matrix == "attn_k"):
        return "Q8_0"
    found: str | None = None
    if values or matrix.startswith("ffn_down"):
        counted = values and bool(facts.valued)
        among = facts.valued if values else facts.fed
        place = among.index(layer) if among else layer
        found = _favoured(place, len(facts.valued) if counted else facts.layers, quant, facts, values)
    elif matrix == "attn_output" and facts.experts == 8:
        found = "Q5_K" if quant in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m") else None
    elif matrix == "attn_output":
        found = {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}.get(quant)
    return found or MIXES[quant]


def _favoured(layer: int, layers: int, quant: str, facts: MixFacts, values: bool) -> str | None:
    """The type of the matrix of values, or of the last one of a feed-forward; None: as most matrices."""
    if quant in ("q4_k_m", "q5_k_m"):
        return "Q6_K" if _more_bits(layer, layers) else None
    first = {"q3_k_m": 2 if values else layers // 16, "q4_k_s": 4 if values else layers // 8}
    return {
        "q2_k": "Q4_K" if values and facts.sharing >= 4 else "Q3_K",
        "q3_k_m": "Q5_K" if layer < first["q3_k_m"] else "Q4_K",
        "q3_k_l": "Q5_K",
        "q4_k_s": "Q5_K" if layer < first["q4_k_s"] else None,
    }.get(quant)


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
