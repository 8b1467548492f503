"""How llama.cpp splits text before merging: its names, and the rules of `tokenizer.json` for each.

llama.cpp knows splits by name and has its own spelling of their rules built in. The rules here are those of
the published tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

from coterie.text.tokenizer import SPLIT

GPT2, DIGITS = "(the split of GPT-2)", "(every digit alone)"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _cased(after: str, but: str = "") -> str:
    """Words: capitals, then others. `but`: what letters must not be; `after`: what may follow."""
    upper, lower, before = f"[{_UPPER}{but}]", f"[{_LOWER}{but}]", r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{upper}*{lower}+{after}|{before}{upper}+{lower}*{after}"


_THREES = SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
_SEED = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES
_PUNCTUATED = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_GPT4O = _cased(_CONTRACTIONS + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_TEKKEN = _cased("") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_KIMI = (
    r"[\p{Han}]+|"
    + _cased(_CONTRACTIONS + "?", r"&&[^\p{Han}]")
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    + _SPACES
)
_CJK, _ASIAN = "[一-龥\u3040-ゟ゠-ヿ]+", "[一-龥ࠀ-一가-\ud7ff]+"
# DeepSeek-V2 lists the cased letters of a version of Unicode: as numbers, since editors compose some of them.
_CASED_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C "
    "38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B "
    "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D "
    "1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 "
    "2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 "
    "2184 "
    "2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF "
    "FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 "
    "118A0-118DF 1E900-1E943"
)


def _letters(ranges: str) -> str:
    """The inside of a regex's set from hexadecimal numbers and ranges."""
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in ranges.split())


LETTERS = rf"\s?[{_letters(_CASED_LETTERS)}]+"


@dataclass(frozen=True)
class Split:
    """One split of llama.cpp: its name and other names of it, and the rules in their order.

    `whole_first`: a whole word that is a token is never merged (ignore_merges). `starts`: whether llama.cpp
    puts the start token before texts where a file does not say. `composed`: architectures whose published
    tokenizers bring text into Unicode's composed form (NFC) first, which a file cannot say.
    """

    name: str
    rules: tuple[str, ...]
    whole_first: bool = False
    starts: bool = False
    aliases: tuple[str, ...] = ()
    composed: tuple[str, ...] = ()


# Of several splits with the same rules, an export takes the first.
SPLITS = (
    Split(
        "qwen2",
        (SPLIT,),
        aliases=("deepseek-r1-qwen", "hunyuan"),
        composed=("qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe"),
    ),
    Split("qwen35", (_QWEN35,), composed=("qwen35", "qwen35moe")),
    Split("llama-bpe", (_THREES,), True, starts=True, aliases=("llama3", "llama-v3", "falcon3", "lfm2")),
    Split("dbrx", (_THREES,), aliases=("smaug-bpe", "glm4", "chatglm-bpe")),
    Split("gpt-4o", (_GPT4O,), aliases=("llama4", "minimax-m2")),
    Split("tekken", (_TEKKEN,), True, starts=True),
    Split("gpt-2", (GPT2,), aliases=("olmo", "granite-docling"), composed=("olmoe",)),
    Split("smollm", (DIGITS, GPT2), aliases=("refact", "starcoder")),
    Split("deepseek-v3", (r"\p{N}{1,3}", _CJK, _PUNCTUATED), aliases=("hunyuan-dense",)),
    Split(
        "deepseek-llm",
        (r"[\r\n]", LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _ASIAN, DIGITS),
    ),
    Split("kimi-k2", (_KIMI,), aliases=("kimi-k25",)),
    Split("seed-coder", (_SEED,)),
)
BY_NAME = {name: split for split in SPLITS for name in (split.name, *split.aliases)}
