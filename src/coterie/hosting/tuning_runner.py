"""Runs fine-tuning jobs: `coterie tune` in a process of low priority, whose result is then served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from coterie.config import CoterieError
from coterie.hosting.database import StateError
from coterie.hosting.job_records import JobFile, JobRecord, new_id, now
from coterie.hosting.job_runner import JobRunner

log = logging.getLogger("coterie.serve")
COMMAND = (sys.executable, "-c", "from coterie.cli.main import main; main()", "tune")
_NICE = 15
_LOOK = 0.5  # seconds between two looks at the run's records
_PATIENCE = 30.0  # seconds that a run has to save where it is and stop
_MOST_EVENTS = 20_000
_LONGEST = 500  # characters of an event


class TuningRunner(JobRunner):
    """The fine-tuning jobs of a server. `command`: what is run."""

    kind = "tuning"
    unfinished = ("validating_files", "queued", "running")
    command = COMMAND

    async def work(self, record: JobRecord) -> None:
        """Run a job, and delete what nobody needs after its end."""
        run = TuningRun(self, record)
        await run.run()
        status, out = run.status, self.out(record)
        if status not in self.unfinished:
            for folder in (self.data(record), out / "checkpoints" if status == "succeeded" else out):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def serve_all(self) -> None:
        """Serve the results of earlier jobs. A store that cannot be read has none; the log says so."""
        try:
            found = await self.records.do(lambda file: file.all(self.kind))
        except StateError:
            return
        for record in found:
            kept = record.data["status"] == "succeeded" and not record.own.get("deleted")
            if kept and any(map(self.host.serves, record.own["models"])):
                try:
                    await self.serve(record)
                except (CoterieError, OSError) as error:
                    log.warning("%s is not served: %s", record.data["fine_tuned_model"], error)

    async def serve(self, record: JobRecord) -> str:
        """Serve the result of a job; returns the name of the model. Errors: `CoterieError`."""
        model, name = record.own["models"][0], record.own["adapter"]
        await self.host.add_adapter(model, name, self.out(record) / "adapter")
        return f"{model}:{name}"

    async def remove(self, record: JobRecord) -> None:
        """Stop serving the result of a job, and delete it."""
        await self.records.do(lambda file: file.change(record.id, lambda one: one.own.update(deleted=True)))
        await self.host.remove_adapter(record.own["models"][0], record.own["adapter"])
        await asyncio.to_thread(shutil.rmtree, self.out(record), ignore_errors=True)

    def out(self, record: JobRecord) -> Path:
        """The folder of a job's run."""
        return self.folder / "tuned" / record.id

    def data(self, record: JobRecord) -> Path:
        """The folder of a job's examples."""
        return self.folder / "tuned" / f"{record.id}-data"


class TuningRun:
    """One job that is being run."""

    def __init__(self, runner: TuningRunner, record: JobRecord) -> None:
        self._runner, self._record = runner, record
        self._out = runner.out(record)
        self._last = ""  # line of the command
        self._num_read = 0  # bytes of the run's records

    @property
    def status(self) -> str:
        """The job's state."""
        return str(self._record.data["status"])

    async def run(self) -> None:
        """Tune and serve. Leaves the job as it is when the server ends: the next start resumes the run."""
        await asyncio.to_thread(end_process, self._record.own.get("process"))
        files = []
        for which in ("training_file", "validation_file"):
            id = self._record.data[which]
            if id is not None:
                try:
                    files.append(await asyncio.to_thread(self._link, id))
                except OSError:
                    return await self._fail("file_not_found", f"the file {id} is gone", which)
        await self._set(status="running")
        process = await self._spawn(files)
        output = asyncio.ensure_future(self._read_output(process))
        try:
            stopped = await self._follow(process)
            text, code = await output, await process.wait()
        finally:
            output.cancel()
            if process.returncode is None:
                await asyncio.shield(_end(process))
        if self._record.data["status"] == "cancelled" or stopped:
            return
        await self._note_records()
        if code == 0:
            await self._succeed(text)
        else:
            await self._fail("tuning_failed", self._last.removeprefix("coterie: ") or f"it ended with {code}")

    def _link(self, id: str) -> Path:
        """A second name of a file, which tells its form and stays when the file is deleted."""
        folder = self._runner.data(self._record)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{id}.jsonl"
        if not path.exists():
            os.link(self._runner.files.path(id), path)
        return path

    async def _spawn(self, files: list[Path]) -> asyncio.subprocess.Process:
        held_out = str(files[1]) if len(files) > 1 else "0"
        own, out = self._record.own, str(self._out)
        options = ("--out", out, "--eval", held_out, "--json", *own["settings"])
        self._out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = await asyncio.create_subprocess_exec(
            *self._runner.command,
            *(own["base"], str(files[0]), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which tells the run
        )
        with contextlib.suppress(psutil.Error):
            there = psutil.Process(process.pid)
            there.nice(_NICE if os.name != "nt" else psutil.BELOW_NORMAL_PRIORITY_CLASS)
            mark = [process.pid, there.create_time()]
            await self._change(lambda record: record.own.update(process=mark))
        return process

    async def _read_output(self, process: asyncio.subprocess.Process) -> bytes:
        """The command's output; each line of its messages becomes an event."""
        assert process.stdout is not None and process.stderr is not None
        whole = asyncio.ensure_future(process.stdout.read())
        try:
            async for line in process.stderr:
                text = line.decode("utf-8", "replace").strip()
                if text and not text.startswith("run step"):  # the records say it better
                    self._last = self._shown(text)
                    if not text.startswith("coterie: "):  # an error; the job will say it
                        await self._event(self._last)
            return await whole
        finally:
            whole.cancel()

    async def _follow(self, process: asyncio.subprocess.Process) -> bool:
        """Wait for the end and report progress; whether the run had to stop before its end."""
        ended = asyncio.ensure_future(process.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=_LOOK)
            await self._note_records()
            await self._change(lambda record: None)
            if self._record.data["status"] == "cancelled" or self._runner.host.draining:
                if not ended.done():
                    await _end(process)
                    return True
        return False

    async def _note_records(self) -> None:
        """Turn new records of training steps into events."""
        with contextlib.suppress(OSError):
            with (self._out / "metrics.jsonl").open("rb") as file:
                file.seek(self._num_read)
                new = file.read()
            lines = new[: new.rfind(b"\n") + 1]
            self._num_read += len(lines)
            for found in map(json.loads, lines.splitlines()):
                seen = self._record.own.get("step", 0)
                if found["kind"] == "train" and found["step"] > seen:
                    await self._step(found)

    async def _step(self, found: dict[str, Any]) -> None:
        step, loss = found["step"], found["loss"]

        def mark(record: JobRecord) -> None:
            record.own["step"] = step
            if found.get("eta_s") is not None:
                record.data["estimated_finish"] = now() + round(found["eta_s"])

        await self._event(f"Step {step}: training loss={loss:.4f}", {"step": step, "train_loss": loss}, mark)

    async def _succeed(self, text: bytes) -> None:
        result = json.loads(text)
        proof = (result.get("report") or {}).get("proof")
        if proof is not None:
            difference = proof["reloaded_max"]
            said = f"The written result was read back and proven; largest difference {difference:.1e} nats."
            await self._event(said, proof)
        try:
            name = await self._runner.serve(self._record)
        except CoterieError as error:
            return await self._fail("not_served", self._shown(str(error)))
        metrics = new_id("file-")
        path = self._out / "metrics.jsonl"
        pieces = partial(_content, path=path)
        title = f"{self._record.id}_metrics.jsonl"
        await self._runner.files.write(metrics, self._record.owner, "fine-tune-results", title, pieces)
        await self._event(f"The model {name} is served.")
        await self._set(
            status="succeeded",
            fine_tuned_model=name,
            finished_at=now(),
            trained_tokens=result["tokens"],
            result_files=[metrics],
            estimated_finish=None,
        )

    async def _fail(self, code: str, message: str, param: str | None = None) -> None:
        error = {"code": code, "message": message, "param": param}
        await self._event(message, level="error")
        await self._set(status="failed", error=error, finished_at=now(), estimated_finish=None)

    def _shown(self, text: str) -> str:
        """A message without the folders of this machine."""
        data = f"{self._runner.data(self._record)}{os.sep}"
        out, base = str(self._out), self._record.own["base"]
        for path, name in ((data, ""), (out, self._record.id), (base, self._record.data["model"])):
            text = text.replace(path, name)
        return text[:_LONGEST]

    async def _event(
        self,
        message: str,
        data: dict[str, Any] | None = None,
        change: Any = lambda record: None,
        level: str = "info",
    ) -> None:
        event = {
            "id": new_id("ftevent-"),
            "object": "fine_tuning.job.event",
            "created_at": now(),
            "level": level,
            "message": message,
            "type": "message" if data is None else "metrics",
            "data": data,
        }

        def add(file: JobFile) -> JobRecord | None:
            if len(file.positions(self._record.id)) >= _MOST_EVENTS:
                return file.change(self._record.id, change)
            return file.add_line(self._record.id, "event", event, change=change)

        found = await self._runner.records.do(add)
        self._record = found or self._record

    async def _set(self, **values: Any) -> None:
        """Change what clients see, unless the job was cancelled meanwhile."""

        def change(record: JobRecord) -> None:
            if record.data["status"] != "cancelled":
                record.data |= values

        await self._change(change)

    async def _change(self, change: Any) -> None:
        found = await self._runner.records.do(lambda file: file.change(self._record.id, change))
        self._record = found or self._record


async def _end(process: asyncio.subprocess.Process) -> None:
    """Tell a run to stop; it saves where it is. One that does not is killed."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def end_process(mark: list[Any] | None) -> None:
    """End the run that a killed server left behind: `mark` is its number and the time of its start."""
    if mark is None:
        return
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(mark[0])
        if process.create_time() == mark[1]:
            process.terminate()
            _, alive = psutil.wait_procs([process], timeout=_PATIENCE)
            for one in alive:
                one.kill()


def _content(file: JobFile, path: Path) -> Any:
    with path.open("rb") as source:
        yield source.read()
