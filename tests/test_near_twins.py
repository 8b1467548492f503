"""Functions that do one job are written once: near twins are merged, or this table says why they are not."""

from __future__ import annotations

import re
from pathlib import Path

from tests.near_twins import LIMIT, near_twins

ROOT = Path(__file__).resolve().parents[1]
_AUTOGRAD = (
    "forward and backward of one autograd function: the same loop over experts, products of other operands"
)
_FORMATS = (
    "two published formats that look alike today: each family states its own keys, so that a change of one "
    "cannot change the other"
)

_FAMILY = re.compile(
    r"families/\w+\.py::_?(read|write|slots|moe_slots)\w*|checkpoints/gguf_model/(configs|hybrids|latent|variants)\.py::\w+"
)
_KERNEL = re.compile(
    r"(native/(rows|matrices|attention|routing|recurrent|odd_blocks)|nn/passes/\w+)\.py::\w+"
)
# Two functions, as `path::name` below src/coterie -> why they stay apart.
EXPLAINED: dict[frozenset[str], str] = {
    frozenset(pair): reason
    for *pair, reason in (
        (
            "checkpoints/tensor_writer.py::_header",
            "contamination/index.py::_write",
            "the safetensors header of torch's tensors and of an index's arrays, in a layer without torch",
        ),
        (
            "agents/loop.py::Agent._result",
            "infer/plays.py::tool_result",
            "a call with approval and a budget, and one whose sandbox's failure must not become a reward",
        ),
        (
            "evaluate/continuations.py::_at",
            "nn/logprobs.py::_TokenLogprobs.forward",
            "a quantised head and the likeliest tokens without a gradient, and what a gradient needs kept",
        ),
        (
            "serve/inprocess.py::_sync_transport",
            "serve/inprocess.py::_async_transport",
            "the blocking and the asynchronous half of httpx's interface, whose base classes differ; they "
            "share Exchange",
        ),
        (
            "sandbox/caller.py::_Interpreter.__init__",
            "sandbox/outside.py::Sandbox._start",
            "the arguments of a confined process that stays and of one that runs one program",
        ),
        (
            "native/state_mixers.py::gated_delta",
            "native/state_mixers.py::mamba2",
            "two rules for a state as operations: the same frame, other projections and fields",
        ),
        (
            "native/attention_vectors.py::_row_scores",
            "native/dots.py::_plain_sums",
            "sums over short rows of keys, and over whole cache lines of weights, asking for the next rows",
        ),
        (
            "recipes/quickstart/from_model.py::pair_from",
            "recipes/quickstart/twins.py::twin_config",
            "the values of the same settings for two kinds of pairs; what is equal is `settings`",
        ),
        ("families/granite.py::_hybrid_slots", "families/mistral4.py::_slots", _FORMATS),
        ("families/granite.py::_hybrid_slots", "families/llama4.py::_slots", _FORMATS),
        (
            "plan/counts.py::_active_matrices",
            "plan/counts.py::_block_counts",
            "all parameters of a block by kind, and those that one token is multiplied by",
        ),
        (
            "nn/gated_delta.py::GatedDeltaNet.forward",
            "nn/mamba2.py::Mamba2.forward",
            "two rules for a state in one frame: convolution, decays, tokens or chunks; they share Carried",
        ),
        (
            "nn/gated_delta.py::GatedDeltaNet.__init__",
            "nn/mamba2.py::Mamba2.__init__",
            "the published projections and parameters of two mixers, which have other widths",
        ),
        (
            "nn/delta_rule.py::delta_rule",
            "nn/mamba2.py::scan",
            "the delta rule solves a system where the scan only adds; they share Chunks and decays",
        ),
        ("plan/encoders.py::_llama4", "plan/encoders.py::_qwen3_5", _FORMATS),
        (
            "surgery/common.py::mixed",
            "surgery/densify.py::densifying",
            "both are one operation as a config and a generator of layers, which is the form of them all",
        ),
        (
            "adapters/peft.py::_decode_full",
            "adapters/peft.py::_encode_full",
            "the two directions of one format, which the round trip of every family holds together",
        ),
        (
            "recipes/quickstart/from_model.py::pair_from",
            "recipes/quickstart/twins.py::twin_config",
            "both name the settings of a pair of runs; one starts from given weights and one from none",
        ),
        (
            "checkpoints/quantised/bitsandbytes.py::collect",
            "checkpoints/quantised/modelopt.py::collect",
            _FORMATS,
        ),
        ("checkpoints/quantised/awq.py::collect", "checkpoints/quantised/gptq.py::collect", _FORMATS),
        (
            "nn/kernels/adapted.py::_AdaptedMixture.forward",
            "nn/kernels/adapted.py::_AdaptedMixture.backward",
            _AUTOGRAD,
        ),
        ("nn/kernels/grouped.py::_Loop.forward", "nn/kernels/grouped.py::_Loop.backward", _AUTOGRAD),
        (
            "primer/stories.py::hiding",
            "primer/stories.py::travelling",
            "two kinds of story: they share the form of sentences drawn at random, and one frame for both "
            "would change the draws and so the corpus",
        ),
        (
            "primer/functions.py::_described",
            "primer/functions.py::generate",
            "the second calls the first; both join lines of examples, whose number they draw differently",
        ),
        (
            "text/template_sandbox.py::WorkMeter.made",
            "text/template_sandbox.py::WorkMeter.weigh",
            "two tests of a value's type with other outcomes: one charges a new value, one measures any",
        ),
        (
            "sandbox/folder.py::Folder.read",
            "sandbox/folder.py::Folder.write",
            "reading and writing below an opened folder: the same refusals, with other flags and order",
        ),
        (
            "adapters/peft_names.py::Names.places",
            "adapters/peft_names.py::Names.parameters",
            "both walk the slots and tell experts from other layers; one names layers and one parameters",
        ),
        (
            "infer/engine.py::Engine._events",
            "infer/engine.py::Engine.generate",
            "one yields the events of a reply as they come, one gathers many replies; both drop what is left",
        ),
        (
            "cli/chat.py::chat",
            "cli/chat.py::run",
            "two verbs with nearly the same options, which typer reads from the signatures",
        ),
        (
            "adapters/attach.py::drop_adapter",
            "adapters/attach.py::put_adapter",
            "the way there and the way back, over the same parameters with opposite steps",
        ),
        (
            "report/plots.py::slice_scores",
            "report/plots.py::slice_differences",
            "two drawings over the same rows, whose shared parts (`axes`, `_rows`, `_dot`, `inline`) are "
            "functions already",
        ),
    )
}


def test_every_near_twin_is_explained():
    here = ROOT / "src" / "coterie"
    found = {
        frozenset((t.first, t.second)): t.share for t in near_twins(sorted(here.rglob("*.py")), here, LIMIT)
    }
    # What reads, writes and names the tensors of one published format states that format's own keys.
    # A compiled kernel reads its fields and takes pieces of its work, as every other one does.
    for kind in (_FAMILY, _KERNEL):
        found = {pair: share for pair, share in found.items() if not all(map(kind.fullmatch, pair))}
    unexplained = [
        f"{found[pair]:.0%} {' and '.join(sorted(pair))}" for pair in found.keys() - EXPLAINED.keys()
    ]
    assert not unexplained, "merge them or explain them in EXPLAINED:\n" + "\n".join(unexplained)
    stale = [" and ".join(sorted(pair)) for pair in EXPLAINED.keys() - found.keys()]
    assert not stale, "no longer near twins, delete their explanations:\n" + "\n".join(stale)
    assert all(len(pair) == 2 and len(reason) > 20 for pair, reason in EXPLAINED.items())


_SUM = '''
def {name}(values):
    """{doc}"""
    total = 0
    count = 0
    for value in values:
        if value > 0:
            total += value * value
            count += 1
    if count == 0:
        raise ValueError("{message}")
    return {result}
'''
_OTHER = """
def unlike(path):
    with open(path) as file:
        lines = file.readlines()
    names = []
    while lines:
        line = lines.pop()
        names.append(line.strip().lower())
    names.sort(key=len)
    return names
"""


def test_the_observer_finds_a_copy_with_another_name_and_end(tmp_path: Path):
    first = _SUM.format(name="mean_square", doc="One.", message="none", result="total / count")
    second = _SUM.format(name="root", doc="Another.", message="empty", result="(total / count) ** 0.5")
    (tmp_path / "a.py").write_text(first + _OTHER)
    (tmp_path / "b.py").write_text(second)
    (twins,) = near_twins(sorted(tmp_path.glob("*.py")), tmp_path)
    assert (twins.first, twins.second) == ("a.py::mean_square", "b.py::root")
    assert 0.8 < twins.share < 1
    assert not near_twins(sorted(tmp_path.glob("*.py")), tmp_path, limit=twins.share)


def test_the_observer_ignores_short_functions_and_those_inside_another(tmp_path: Path):
    inner = _SUM.format(name="inner", doc="One.", message="none", result="total")
    nested = "def outer(values):\n" + "".join(f"    {line}\n" for line in inner.strip().splitlines())
    (tmp_path / "a.py").write_text(nested + "    return inner(values)\n")
    short = "def {}(a):\n    b = a + 1\n    c = b * a\n    return a + b + c\n"
    (tmp_path / "b.py").write_text(short.format("one") + short.format("two"))
    assert near_twins(sorted(tmp_path.glob("*.py")), tmp_path) == []
