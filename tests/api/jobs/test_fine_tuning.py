"""Fine-tuning jobs through the `openai` package; one slow test tunes, the others run a stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import psutil
import pytest

import coterie
from coterie.hosting.host import Host
from coterie.hosting.tuning_runner import COMMAND, TuningRunner, end_process
from coterie.infer.model import LanguageModel
from coterie.serve.server import ServerThread
from tests.recipes.tuned import base, conversations
from tests.serve.support import call, eventually, language_model, service

ENDS = ("succeeded", "failed", "cancelled")
JOBS = "/v1/fine_tuning/jobs"
# Reads its examples as `coterie tune` would, writes two records, then fails as the examples say, or waits.
STAND_IN = """
import json, pathlib, sys, time
base, data, *rest = sys.argv[1:]
out = pathlib.Path(rest[rest.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
text = pathlib.Path(data).read_text()
with open(out / "metrics.jsonl", "a") as file:
    for step in (1, 2):
        print(json.dumps({"kind": "train", "step": step, "loss": 3.0 - step, "eta_s": 1.0}), file=file)
print(f"tune {base}: {data}", *rest, file=sys.stderr, flush=True)
if "wait" in text:
    time.sleep(60)
sys.exit(f"coterie: {data}: line 1: {text}")
"""


def started(state: Path, **settings: Any) -> ServerThread:
    made = language_model()
    model = LanguageModel(made.model, made.tokenizer)
    model.checkpoint = SimpleNamespace(path=state / "secret" / "base")  # type: ignore[assignment]
    given = {"state_dir": str(state), "allow_tuning": True, **settings}
    return ServerThread(Host.of(service(model, **given)))


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    state = tmp_path_factory.mktemp("tuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuningRunner, "command", (sys.executable, "-S", "-c", STAND_IN))
        with started(state) as running:
            client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
            yield SimpleNamespace(client=client, url=running.url, state=state)


def uploaded(client: openai.OpenAI, text: str) -> str:
    return client.files.create(file=("a.jsonl", text.encode()), purpose="fine-tune").id


def ended(client: openai.OpenAI, id: str, seconds: float = 30) -> Any:
    jobs = client.fine_tuning.jobs
    eventually(lambda: jobs.retrieve(id).status in ENDS, seconds)
    return jobs.retrieve(id)


def test_a_failed_job_says_why_in_one_line_and_shows_no_paths(tuning):
    jobs = tuning.client.fine_tuning.jobs
    file = uploaded(tuning.client, "no example")
    numbers = {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 2.0}
    made = jobs.create(
        model="tiny", training_file=file, seed=5, suffix="my model", metadata={"a": "b"},
        method={"type": "supervised", "supervised": {"hyperparameters": numbers}},
    )  # fmt: skip
    assert (made.status, made.seed, made.hyperparameters.n_epochs) == ("queued", 5, 2)
    done = ended(tuning.client, made.id)
    assert done.status == "failed" and done.fine_tuned_model is None
    assert done.error.code == "tuning_failed" and done.error.message == f"{file}.jsonl: line 1: no example"
    said = [one.message for one in jobs.list_events(made.id, limit=2)]  # all pages, the newest first
    assert said[0] == done.error.message and said.count(said[0]) == 1, said
    losses = [one.data for one in jobs.list_events(made.id) if one.type == "metrics"]
    assert losses == [{"step": 2, "train_loss": 1.0}, {"step": 1, "train_loss": 2.0}]
    (command,) = [text for text in said if text.startswith("tune ")]
    asked = dict(pair.split("=") for pair in command.split() if "=" in pair)
    assert asked.pop("lr") and asked == {
        "objective": "sft", "seed": "5", "epochs": "2", "packing": "false", "batch_rows": "3"
    }  # fmt: skip
    assert str(tuning.state) not in " ".join(said)
    assert made.id in [one.id for one in jobs.list(limit=1)]
    assert [*jobs.checkpoints.list(made.id)] == []
    with pytest.raises(openai.ConflictError, match="ended"):
        jobs.cancel(made.id)


def test_a_job_can_be_cancelled_and_the_next_one_runs(tuning):
    jobs = tuning.client.fine_tuning.jobs
    first = jobs.create(model="tiny", training_file=uploaded(tuning.client, "wait"))
    second = jobs.create(model="small", training_file=uploaded(tuning.client, "x"), method={"type": "dpo"})
    eventually(lambda: any(one.type == "metrics" for one in jobs.list_events(first.id)))
    assert jobs.retrieve(first.id).status == "running" and jobs.retrieve(second.id).status == "queued"
    assert jobs.cancel(first.id).status == "cancelled"
    assert ended(tuning.client, second.id).status == "failed"
    assert jobs.retrieve(first.id).status == "cancelled"


def test_a_stopped_server_goes_on_with_its_job(tmp_path, monkeypatch):
    monkeypatch.setattr(TuningRunner, "command", (sys.executable, "-S", "-c", STAND_IN))
    with started(tmp_path) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        id = client.fine_tuning.jobs.create(model="tiny", training_file=uploaded(client, "wait")).id
        eventually(lambda: any(one.type == "metrics" for one in client.fine_tuning.jobs.list_events(id)))
    (example,) = (tmp_path / "tuned" / f"{id}-data").iterdir()
    example.write_text("go on")
    with started(tmp_path) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        assert ended(client, id).error.message.endswith("line 1: go on")
        assert sum(one.type == "metrics" for one in client.fine_tuning.jobs.list_events(id)) == 2
    assert [*(tmp_path / "tuned").iterdir()] == []


def test_the_run_of_a_killed_server_is_ended_and_no_other_process():
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as process:
        born = psutil.Process(process.pid).create_time()
        end_process([process.pid, born - 1])
        assert process.poll() is None
        end_process([process.pid, born])
        assert not psutil.pid_exists(process.pid)
    end_process([process.pid, born])
    end_process(None)


WRONG: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "other"}, 404, "/model"),
    ({"training_file": "file-none"}, 404, None),
    ({"validation_file": "file-none"}, 404, None),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, 400, "/integrations"),
    ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, 400, "/method"),
    ({"method": {"type": "supervised", "dpo": {"hyperparameters": {"beta": 1.0}}}}, 400, "/method/dpo"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, 400, "/method/dpo/"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "/hyperparameters/n_epochs"),
    ({"hyperparameters": {"lora": 1}}, 400, "/hyperparameters/lora"),
    ({"suffix": "x" * 65}, 400, "/suffix"),
    ({"colour": 1}, 400, "/colour"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "param"), WRONG)
def test_wrong_requests_are_pointed_at(tuning, change, status, param):
    body = {"model": "tiny", "training_file": uploaded(tuning.client, "x"), **change}
    got, _, answer = call(tuning.url, "POST", JOBS, body)
    assert got == status and str(answer["error"]["param"]).startswith(str(param)), answer


def test_other_purposes_and_servers_that_do_not_allow_it(tuning, server):
    id = tuning.client.files.create(file=("a", b"1"), purpose="batch").id
    got, _, answer = call(tuning.url, "POST", JOBS, {"model": "tiny", "training_file": id})
    assert (got, answer["error"]["param"]) == (400, "/training_file")
    got, _, answer = call(server.url, "GET", JOBS)
    assert got == 403 and "--allow-tuning" in answer["error"]["message"]


@pytest.mark.slow
def test_a_model_is_tuned_and_served_also_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(
        TuningRunner, "command", COMMAND
    )  # the stand-in of the tests before may still be there
    path = base(tmp_path, "qwen3", calm=True)
    examples = conversations(tmp_path / "examples.jsonl").read_text()
    settings = {"state_dir": str(tmp_path / "state"), "allow_tuning": True}

    def serving() -> ServerThread:
        return ServerThread(Host.of(service(coterie.load(path), **settings)))

    def said(client: openai.OpenAI, model: str) -> str:
        body: dict[str, Any] = {"prompt": "red?", "max_tokens": 8, "temperature": 0}
        return client.completions.create(model=model, **body, logprobs=0).model_dump_json(include={"choices"})

    with serving() as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        file = uploaded(client, examples)
        made = client.fine_tuning.jobs.create(
            model="tiny", training_file=file, validation_file=file, suffix="mine",
            hyperparameters={"n_epochs": 1, "batch_size": 6},
        )  # fmt: skip
        done = ended(client, made.id, 300)
        assert done.status == "succeeded", done
        name = done.fine_tuned_model
        assert name.startswith("tiny:ft-mine-") and done.trained_tokens > 0
        assert name in [one.id for one in client.models.list()]
        messages = [one.message for one in client.fine_tuning.jobs.list_events(made.id)]
        assert any("proven" in text for text in messages), messages
        lines = client.files.content(done.result_files[0]).text.splitlines()
        assert sum(json.loads(text)["kind"] == "train" for text in lines) == 3
        before = said(client, name)
        assert before != said(client, "tiny")
    with serving() as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        assert said(client, name) == before
        assert {one.name for one in (tmp_path / "state" / "tuned").iterdir()} == {made.id}
        assert client.models.delete(name).deleted
        with pytest.raises(openai.NotFoundError):
            said(client, name)
        with pytest.raises(openai.NotFoundError):
            client.models.delete("tiny")
        assert [*(tmp_path / "state" / "tuned").iterdir()] == []
