"""HumanEval (arXiv 2107.03374) from a copy that the user has: functions to complete, checked by its tests.

The program and its tests run in the sandbox, as those of the task `programs` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.benchmarks.published import PublishedBenchmark
from coterie.benchmarks.rows import field, read_rows
from coterie.sandbox.caller import Returned, Submission
from coterie.tasks.small_programs import run_programs

_FENCE = re.compile(r"^```[a-zA-Z]*[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_ENDS = re.compile(r"\n(?=class |def |#|if |print\(|@|import |from |```)")
_PASSED = "all tests passed"
_ENTRY = "run_the_published_tests"


class HumanEval(PublishedBenchmark):
    """Functions from their head and docstring; pass@1 of one reply each."""

    name = "humaneval"
    says = "HumanEval from a copy of yours: HumanEval.jsonl or .jsonl.gz"
    metric = "pass@1"
    executes = True
    exclusive = False
    max_tokens = 768
    origin = ("MIT", "openai/human-eval", "2021-07-07")

    def read(self, path: Path) -> Iterator[BenchmarkItem]:
        """A row: `task_id`, `prompt`, `entry_point`, `canonical_solution`, `test`."""
        for place, row in read_rows(path):
            names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
            name, prompt, entry, solution, test = (field(place, row, one, str) for one in names)
            said = f"Complete this Python function. Reply with one block of code.\n\n```python\n{prompt}```"
            yield BenchmarkItem(
                id=name,
                turns=({"role": "user", "content": said},),
                answer=solution,
                facts={"prompt": prompt, "entry": entry, "test": test},
                source=self.source(),
            )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether the tests pass."""
        return self.judge_all([item], [reply])[0]

    def judge_all(self, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[ItemVerdict]:
        """The same for many; programs run at the same time, as many as there are processors."""
        codes = [program(item, reply.text) for item, reply in zip(items, replies, strict=True)]
        whole = [code and _with_tests(item, code) for item, code in zip(items, codes, strict=True)]
        returned = run_programs([Submission(one, _ENTRY, [[]]) if one else None for one in whole])
        return list(map(_verdict, codes, returned))

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The published solution."""
        return ItemReply(text=f"```python\n{item.facts['prompt']}{item.answer}```")


def program(item: BenchmarkItem, text: str) -> str | None:
    """The program that a reply means: its block of code, or the text as the rest of the function.

    Of several blocks the last with the function counts. What stands before the function in the prompt, such
    as imports, is put first.
    """
    prompt, entry = item.facts["prompt"], item.facts["entry"]
    if not text.strip():
        return None
    head = f"def {entry}("
    before = prompt.partition(head)[0]
    blocks = [block for block in _FENCE.findall(text[:100_000]) if head in block]
    if blocks:
        return f"{before}\n{blocks[-1]}"
    if "```" in text and not text.startswith((" ", "\t")):
        return None
    if head in text:
        return f"{before}\n{text}"
    return prompt + _ENDS.split(text, maxsplit=1)[0] + "\n"


def _with_tests(item: BenchmarkItem, code: str) -> str:
    entry, test = item.facts["entry"], item.facts["test"]
    return f"{code}\n{test}\n\ndef {_ENTRY}():\n    check({entry})\n    return {_PASSED!r}\n"


def _verdict(code: str | None, returned: Returned | None) -> ItemVerdict:
    if code is None or returned is None:
        return ItemVerdict(0.0, unparsed=True, why="the reply holds no program")
    passed = returned.values == (("value", _PASSED),)
    said = returned.why or (str(returned.values[0][1])[:120] if returned.values else "")
    return ItemVerdict(float(passed), code[:2000], failed=returned.failed, why="" if passed else said)
