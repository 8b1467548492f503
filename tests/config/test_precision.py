"""Tables of what weights are held in: parsed once, written back, wrong ones refused in one line."""

from __future__ import annotations

import pytest

from coterie.config import AdapterConfig, ConfigError, Precision

ALL = ("attention", "experts", "shared", "dense")


@pytest.mark.parametrize(
    ("text", "named", "block"),
    [
        ("int8", dict.fromkeys(ALL, "int8"), 64),
        ("int4,block=32", dict.fromkeys(ALL, "int4"), 32),
        ("int4, attention=bf16", dict.fromkeys(ALL, "int4") | {"attention": "bf16"}, 64),
        ("attention=bf16,int4", dict.fromkeys(ALL, "int4"), 64),
        ("experts=int4,attention=bf16,ffn=int8,head=int8",
         {"experts": "int4", "attention": "bf16", "shared": "int8", "dense": "int8", "head": "int8"}, 64),
        ("embedding=f16", {"embedding": "f16"}, 64),
    ],
)  # fmt: skip
def test_a_table_is_read_and_written_back(text: str, named: dict[str, str], block: int) -> None:
    found = Precision.parse(text)
    assert found.named == named and found.block == block and found.stored
    assert Precision.parse(str(found)) == found
    assert found.bits("attention") == {"int8": 8, "int4": 4}.get(named.get("attention", ""))
    assert found.form("router") is None and found.bits("norm") is None


def test_nothing_is_named() -> None:
    assert Precision.parse("stored") == Precision() and str(Precision()) == "stored"
    assert not Precision.parse("none").stored and str(Precision.parse("none")) == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int5", "'int5' is no form of weights"),
        ("router=int8", "'router' is no class of weights; classes: attention"),
        ("expert=int4", "'expert' is no class of weights (did you mean 'experts'?)"),
        ("experts=", "'' is no form of weights"),
        ("", "'' is no form of weights"),
        ("int4,block=0", "'block': Input should be greater than 0"),
        ("embedding=int8", "its rows are looked up; it takes f32, bf16 or f16"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Precision.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_an_adapter_freezes() -> None:
    how = AdapterConfig(quant="int4", quant_block=16, train={"shared": "full"})
    assert how.precision is not None and not how.precision.stored and how.precision.block == 16
    assert how.precision.named == dict.fromkeys(("attention", "experts", "dense"), "int4")
    assert AdapterConfig().precision is None
