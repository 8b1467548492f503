"""What an evaluation is, as data: the model, the tasks, how items are asked, what is tried besides."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings


class EvalConfig(Settings):
    """One evaluation of `model` (a directory, a hub id or a server's address) on `tasks`.

    `settings`: of single tasks, by their names. `out`: the directory of the report.
    """

    model: str
    tasks: tuple[str, ...] = Field(min_length=1)
    out: str = "runs/eval"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1, description="Only the first items of each task.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer (default: the task's).")
    temperature: float = Field(0.0, ge=0, le=2, description="0: the most likely reply.")
    seeds: tuple[int, ...] = Field((), description="One sampled reply to each item for each seed.")
    effort: str | None = Field(None, description="How much to reason: none, low, medium, high ...")
    reasoning_tokens: int = Field(1024, ge=0, description="Tokens of reasoning, besides those of the answer.")
    form: str = Field("auto", description="chat, plain or text (default: chat where there is a template).")
    system: str | None = Field(None, description="A system message before each item.")
    turns: int = Field(8, ge=1, description="Replies of a conversation with tools, at most.")
    exact: bool = Field(True, description="An item's result never depends on what else is in the batch.")
    band: int = Field(8, ge=0, description="Other wordings of each item that are tried.")
    band_items: int = Field(50, ge=1, description="Items that are asked in other wordings.")
    twins: int = Field(0, ge=0, description="Items that are compared with new ones of their template.")
    shuffled: int = Field(0, ge=0, description="Items whose choices are shown in other orders.")
    orders: int = Field(0, ge=0, description="Other orders of a published test set's items, per shard.")
    shards: int = Field(20, ge=1, description="Parts of a test set that are each tried in other orders.")
    disguised: int = Field(0, ge=0, description="Items that are asked in a form unlike the evaluation's.")
    canaries: int = Field(9999, ge=0, description="Others that a file's canary is compared with, at most.")
    invariance: int = Field(0, ge=0, description="Items of each task that are asked in several batches.")
    memorised: str | None = Field(None, description="Training text, whose texts the model is to continue.")
    memorised_control: str | None = Field(None, description="Text of that kind that it was not trained on.")
    before: str | None = Field(None, description="The report of the model before tuning, on the same tasks.")
    plan: str | None = Field(None, description="A plan that was locked (coterie eval lock), to follow.")
    ledger: str | None = Field(None, description="The ledger of looks, in which the scores are entered.")
    split: Literal["test", "dev", "sealed"] = Field("test", description="How the ledger counts the items.")
    data_index: tuple[str, ...] = Field((), description="Further indexes of the training data.")
    allow_code: bool = Field(False, description="Run the programs that replies hold, in the sandbox.")
    dtype: str = Field("auto", description="What is computed in.")
    device: str = Field("auto", description="cpu, cuda, or auto.")
    quant: str | None = Field(None, description="What the weights are held in.")
    kernels: str = Field("auto", description="Of decoding: native, torch or auto.")
    adapter: str | None = Field(None, description="An adapter or patch to apply.")
    template: str | None = Field(None, description="Another chat template.")
    threads: int | None = Field(None, ge=1, description="Threads of the processor.")
    model_name: str | None = Field(None, description="The model's name at the server.")
    key_file: str | None = Field(None, description="A file with the server's key.")
    name: str = Field("", description="The model's name in the report (default: as given).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.settings:
            if name not in self.tasks:
                raise ValueError(f"settings.{name}: '{name}' is not among the tasks")
        if self.seeds and self.temperature == 0:
            raise ValueError("seeds: replies at temperature 0 have none; set temperature=0.7, for example")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: name each seed once")
        if self.memorised_control is not None and self.memorised is None:
            raise ValueError("memorised_control: is compared with training text; name it: memorised=FILE")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: name each task once")
        return self
