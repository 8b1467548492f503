"""Batches: through the `openai` package, behind clients' requests, over stops and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest

from coterie.hosting.job_records import FILE, JobFile
from coterie.hosting.keys import KeySettings
from tests.recipes.tuned import base
from tests.serve.support import ASK, call, eventually, language_model, serving

ENDS = ("completed", "failed", "expired", "cancelled")
CHAT = "/v1/chat/completions"


def line(custom_id: str, body: dict[str, Any], url: str = CHAT, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 2, "temperature": 0} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}


def send(client: openai.OpenAI, lines: list[Any], url: Any = CHAT, **more: Any) -> Any:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    file = client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h", **more)


def ended(client: openai.OpenAI, id: str) -> Any:
    eventually(lambda: client.batches.retrieve(id).status in ENDS, 30)
    return client.batches.retrieve(id)


def results(client: openai.OpenAI, id: str | None) -> list[Any]:
    return [] if id is None else [json.loads(one) for one in client.files.content(id).text.splitlines()]


def test_the_openai_package_runs_a_batch(client, server):
    lines = [line(f"n{number}", {"seed": number, "user": "me"}) for number in range(5)]
    lines[3]["body"]["messages"] = []
    made = send(client, lines, metadata={"a": "b"})
    assert made.status == "validating" and made.metadata == {"a": "b"}
    done = ended(client, made.id)
    assert done.status == "completed", done
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 4, 1)
    good, bad = results(client, done.output_file_id), results(client, done.error_file_id)
    assert [one["custom_id"] for one in good] == ["n0", "n1", "n2", "n4"]
    alone = call(server.url, "POST", CHAT, lines[0]["body"])[2]
    assert good[0]["response"]["body"]["choices"] == alone["choices"]
    assert good[0]["response"]["x_coterie_ignored"] == ["user"] and good[0]["error"] is None
    assert bad[0]["custom_id"] == "n3" and bad[0]["response"]["status_code"] == 400
    assert bad[0]["response"]["body"]["error"]["param"] == "/messages"
    assert done.usage.output_tokens == sum(
        one["response"]["body"]["usage"]["completion_tokens"] for one in good
    )
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert made.id in [one.id for one in client.batches.list(limit=1)]
    with pytest.raises(openai.ConflictError, match="ended"):
        client.batches.cancel(made.id)


def test_a_batch_belongs_to_the_key_that_made_it(tmp_path):
    keys = [KeySettings(name=name, key=f"the-key-of-{name}") for name in ("anna", "ben")]
    with serving(state_dir=tmp_path, keys=tuple(keys)) as running:
        anna, ben = (
            openai.OpenAI(base_url=running.url + "/v1", api_key=f"the-key-of-{name}", max_retries=0)
            for name in ("anna", "ben")
        )
        made = send(anna, [line("n", {})])
        assert ended(anna, made.id).status == "completed" and len(anna.batches.list().data) == 1
        with pytest.raises(openai.NotFoundError):
            ben.batches.retrieve(made.id)
        assert not ben.batches.list().data


@pytest.mark.parametrize("url", ["/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_the_other_endpoints(client, url):
    asked = {
        "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
        "/v1/embeddings": {"input": "Hi"},
        "/v1/responses": {"input": "Hi", "max_output_tokens": 2, "store": False},
    }
    body = {"model": "tiny", **asked[url]}
    made = send(client, [{"custom_id": "a", "method": "POST", "url": url, "body": body}], url)
    done = ended(client, made.id)
    (one,) = results(client, done.output_file_id)
    assert done.status == "completed" and one["response"]["status_code"] == 200
    assert done.usage.input_tokens > 0


WRONG: list[tuple[Any, str]] = [
    ("{", "invalid_json_line"),
    ('{"custom_id": "a", "custom_id": "b"}', "invalid_json_line"),
    (line("", {}), "invalid_custom_id"),
    (line("good", {}), "duplicate_custom_id"),
    (line("w0", {}, method="GET"), "invalid_method"),
    (line("w1", {}, url="/v1/completions"), "mismatched_endpoint"),
    (line("w2", {}, colour=1), "unknown_field"),
    (line("w3", {"stream": True}), "invalid_body"),
    (line("w4", {"model": "other"}), "model_not_found"),
]


def test_a_wrong_file_fails_with_the_numbers_of_its_lines(client):
    done = ended(client, send(client, [line("good", {}), "", *(one for one, _ in WRONG)]).id)
    assert done.status == "failed" and done.output_file_id is None
    assert [(one.line, one.code) for one in done.errors.data] == [
        (number + 3, code) for number, (_, code) in enumerate(WRONG)
    ]
    done = ended(client, send(client, ["\n"]).id)
    assert (done.status, done.errors.data[0].code) == ("failed", "empty_file")


def test_wrong_requests_are_pointed_at(client, server):
    file = client.files.create(file=("a", b"1"), purpose="user_data")
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    for change, status, param in (
        ({}, 400, "/input_file_id"),
        ({"input_file_id": "file-none"}, 404, None),
        ({"endpoint": "/v1/moderations"}, 400, "/endpoint"),
        ({"completion_window": "1h"}, 400, "/completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, "/output_expires_after"),
    ):
        got, _, body = call(server.url, "POST", "/v1/batches", {**asked, **change})
        assert (got, body["error"]["param"]) == (status, param), body


def test_a_batch_never_stands_before_a_client_and_can_be_cancelled(tmp_path):
    """One slot, taken by a long line of a batch: a client's request takes it over at once."""
    model = language_model(max_positions=4096)
    with serving(model, state_dir=str(tmp_path), slots=1) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        long = {"max_tokens": 4000, "ignore_eos": True}
        made = send(client, [line(str(number), long) for number in range(3)])
        engine = running.service.engine
        eventually(lambda: engine.num_running == 1)
        begun = time.monotonic()
        for _ in range(3):
            status, _, _ = call(
                running.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "max_tokens": 2}
            )
            assert status == 200
        seconds = time.monotonic() - begun
        assert client.batches.retrieve(made.id).request_counts.completed == 0
        assert seconds < 2, seconds  # a line alone takes longer
        eventually(lambda: engine.num_running == 1)  # the batch goes on
        assert client.batches.cancel(made.id).status == "cancelling"
        done = ended(client, made.id)
        assert done.status == "cancelled" and done.cancelled_at >= done.cancelling_at
        eventually(lambda: engine.num_running == 0)


LONG = {"max_tokens": 30, "ignore_eos": True}


def stored(state: Path) -> Any:
    """What is done of the one batch of a server that has ended."""
    file = JobFile(state / FILE)
    (batch,) = file.all("batch")
    assert len(file.positions(batch.id)) == batch.data["request_counts"]["completed"]
    file.close()
    return batch.data


def test_a_stopped_server_goes_on_with_its_batch_and_runs_no_line_twice(tmp_path):
    lines = [line(str(number), LONG) for number in range(30)]
    with serving(state_dir=str(tmp_path), slots=2) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        id = send(client, lines).id
        eventually(lambda: client.batches.retrieve(id).request_counts.completed > 2)
    before = stored(tmp_path)
    assert before["status"] == "in_progress" and 2 < before["request_counts"]["completed"] < 30
    with serving(state_dir=str(tmp_path), slots=8) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        done = ended(client, id)
        ids = [one["custom_id"] for one in results(client, done.output_file_id)]
        metrics = call(running.url, "GET", "/metrics")[2]
    assert done.status == "completed" and ids == [str(number) for number in range(30)]
    left = 30 - before["request_counts"]["completed"]
    assert f"coterie_generation_tokens_total {left * 30}\n" in metrics


def test_a_batch_that_is_not_done_in_time_says_so_in_the_lines_that_did_not_run(tmp_path):
    with serving(state_dir=str(tmp_path), slots=1) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        id = send(client, [line("quick", {}), *(line(str(n), {"max_tokens": 400}) for n in range(20))]).id
        eventually(lambda: client.batches.retrieve(id).request_counts.completed)
    file = JobFile(tmp_path / FILE)
    file.change(id, lambda record: record.data.update(expires_at=1))
    file.close()
    with serving(state_dir=str(tmp_path)) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        done = ended(client, id)
        good, late = results(client, done.output_file_id), results(client, done.error_file_id)
    assert done.status == "expired" and done.expired_at and good[0]["custom_id"] == "quick"
    assert len(good) == done.request_counts.completed and len(good) + len(late) == 21
    assert {one["error"]["code"] for one in late} == {"batch_expired"}


@pytest.mark.slow
def test_a_killed_server_goes_on_with_its_batch(tmp_path):
    """`kill -9` in the middle, three times; every request is answered exactly once in the results."""
    model = base(tmp_path, "qwen3")
    state = tmp_path / "state"
    command = [sys.executable, "-c", "from coterie.cli.main import main; main()", "serve", str(model),
               "--name", "tiny", "--port", "0",
               "--state-dir", str(state), "--slots", "2"]  # fmt: skip
    id, done = "", None
    while done is None:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            url = next(text for text in process.stderr if text.startswith("http")).split()[0]
            client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
            if not id:
                body = {"model": "tiny", "prompt": "red?", **LONG}
                one = {"method": "POST", "url": "/v1/completions", "body": body}
                id = send(client, [{"custom_id": str(n), **one} for n in range(60)], one["url"]).id
            done = some_more(client, id)
            if done is not None:
                ids = Counter(one["custom_id"] for one in results(client, done.output_file_id))
            process.send_signal(signal.SIGKILL)
    assert done.status == "completed" and ids == Counter(str(n) for n in range(60))


def some_more(client: openai.OpenAI, id: str) -> Any:
    """Wait for 20 more answers: None; or for the end of the batch: the batch."""
    before = client.batches.retrieve(id).request_counts.completed

    def enough() -> bool:
        found = client.batches.retrieve(id)
        return found.status in ENDS or before + 20 < found.request_counts.completed < 60

    eventually(enough, 60)
    found = client.batches.retrieve(id)
    return found if found.status in ENDS else None
