"""The command line: every verb with its place and one line about it, and how errors end the program."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated, Any

import typer

from coterie import __version__
from coterie.cli.help import Verb, group
from coterie.cli.messages import show_messages

TRAIN, USE, CHECK, CHANGE, SERVE, LOOK = (
    "Train and tune",
    "Use a model",
    "Look and check",
    "Change a model",
    "Serve, and grade servers",
    "Data, plans and settings",
)
VERBS = {
    "quickstart": Verb(
        "Train an MoE and its dense twin, compare them, write a report.",
        "quickstart:quickstart",
        section=TRAIN,
    ),
    "train": Verb(
        "Train a model: from text (coterie train FILE.yaml), by rewards, or from a teacher.",
        inner={
            "pretrain": Verb(
                "Train a model, dense or mixture of experts; resumable. The default.", "train:train"
            ),
            "reinforce": Verb(
                "Learn from rewards: a model improves on a task that a program checks.",
                "reinforce:reinforce",
            ),
            "reject": Verb("Tune a model on its own replies that are right.", "reject:reject"),
            "distill": Verb(
                "Learn from a teacher, next to a control that learns without.", "distill:distill"
            ),
        },
        default="pretrain",
        section=TRAIN,
    ),
    "tune": Verb(
        "Tune a model on your examples, experts included; proves the result.", "tune:tune", section=TRAIN
    ),
    "pool": Verb("Find the problems of a task that a model solves sometimes.", "pool:pool", section=TRAIN),
    "pipeline": Verb(
        "Several recipes one after the other, from one file.",
        inner={
            "run": Verb("Run the stages of a file; done ones are skipped.", "pipeline:run"),
            "r1": Verb("Climb DeepSeek-R1's ladder from a model and a task.", "pipeline:r1"),
        },
        section=TRAIN,
    ),
    "compare": Verb(
        "Which model, or which training recipe, is better for you.", "compare:compare", section=CHECK
    ),
    "report": Verb(
        "Draw a run's report again, or compare reinforcement runs.", "report:report", section=TRAIN
    ),
    "pull": Verb(
        "Fetch a model from the hub; resumes, pins revisions, checks hashes.", "pull:pull", section=USE
    ),
    "models": Verb(
        "List the models of this machine and what can be done with each.", "models:models", section=USE
    ),
    "chat": Verb("Talk to a model or a server in the terminal.", "chat:chat", section=USE),
    "run": Verb("One answer to one message, from a model or a server.", "chat:run", section=USE),
    "generate": Verb("Continue a text.", "chat:generate", section=USE),
    "agent": Verb("Let a model do a task step by step with tools.", "agent:agent", section=USE),
    "mcp": Verb("Offer a model as an MCP server on standard input and output.", "agent:mcp", section=USE),
    "inspect": Verb(
        "Architecture, parameters, memory and oddities of a model.", "inspect:inspect", section=CHECK
    ),
    "verify": Verb("Check that two models are the same to their users.", "verify:verify", section=CHECK),
    "release": Verb(
        "Publish a model with its evidence, or check a release.",
        inner={
            "make": Verb("Release a model with its report; refuses without evidence.", "release:make"),
            "check": Verb("Check a release as its receiver.", "release:check"),
            "export": Verb("Write a release's scores in the form of other tools.", "release:export"),
            "sign": Verb("Sign an evaluation report.", "release:sign"),
        },
        default="make",
        section=CHECK,
    ),
    "eval": Verb(
        "Score a model on tasks, with every reply behind the score.",
        inner={
            "run": Verb("Score a model, or a server's, on tasks. The default.", "evaluate:run"),
            "lock": Verb("Lock a plan before anything is scored.", "evaluate:lock"),
            "list": Verb("The tasks.", "evaluate:tasks"),
            "items": Verb("Write the items of a task to a file.", "evaluate:items"),
            "invariance": Verb("How far results depend on the batch.", "evaluate:invariance"),
            "report": Verb("Draw the page of an evaluation again.", "evaluate:report"),
            "verify": Verb("Replay items of a report.", "verify_report:verify"),
        },
        default="run",
        section=CHECK,
    ),
    "identity": Verb(
        "Name a model's weights by digests, or say which experts differ.", "identity:identity", section=CHECK
    ),
    "key": Verb(
        "Keys that sign what is said about a model.",
        inner={
            "new": Verb("Make a key: a private file and its public half.", "key:new"),
            "show": Verb("The digest that names a key.", "key:show"),
        },
        section=CHECK,
    ),
    "ledger": Verb(
        "The ledger of looks: every scoring of a checkpoint on a test set.",
        inner={
            "show": Verb("The looks, and how often each test set was looked at.", "ledger:show"),
            "head": Verb("The digest to publish, so that the ledger cannot be cut.", "ledger:head"),
            "check": Verb("Check the chain, the results and known heads.", "ledger:check"),
        },
        section=CHECK,
    ),
    "profile": Verb("Count which experts a task's texts use.", "experts:profile", section=CHECK),
    "select": Verb("Choose the experts that matter for a task.", "experts:select", section=CHECK),
    "routing": Verb("How a model routes, before and after tuning.", "experts:routing", section=CHECK),
    "merge": Verb(
        "Write base plus adapter as a whole checkpoint, verified.", "adapter:merge", section=CHANGE
    ),
    "convert": Verb(
        "Write a model in another layout or type, with a receipt.", "convert:convert", section=CHANGE
    ),
    "quantise": Verb(
        "Write a model in 8 or 4 bits, with its losses measured.", "quantise:quantise", section=CHANGE
    ),
    "adapter": Verb(
        "LoRA adapters: inspect, compare, convert, merge.",
        inner={
            "inspect": Verb("What an adapter is and how far it moves its base.", "adapter:inspect"),
            "convert": Verb("The same adapter in another layout, or as a whole model.", "adapter:convert"),
            "diff": Verb("How far two adapters of one base are apart.", "adapter:diff"),
            "merge": Verb("Write base plus adapter as a whole checkpoint, verified.", "adapter:merge"),
        },
        section=CHANGE,
    ),
    "patch": Verb(
        "Expert patches: chosen experts trained in full, kept apart from their base.",
        inner={
            "apply": Verb("Write a base with its patches as a whole checkpoint.", "patch:apply"),
            "inspect": Verb("What a patch holds.", "patch:inspect"),
            "diff": Verb("Compare two patches, or a patch with its base.", "patch:diff"),
            "remove": Verb("Take a patch off a model it was written into.", "patch:remove"),
        },
        section=CHANGE,
    ),
    "surgery": Verb(
        "Add, remove, merge or swap experts; dense to MoE and back; with receipts.",
        inner={
            "upcycle": Verb("Make a mixture of experts from a dense model.", "surgery:upcycle"),
            "prune": Verb("Remove the experts that matter least for the text.", "surgery:prune"),
            "merge-experts": Verb("Merge experts that respond alike to the text.", "surgery:merge_experts"),
            "add-tokens": Verb("Add tokens to a model and its tokenizer.", "vocabulary:add_tokens"),
            "densify": Verb("Make a dense model from a mixture of experts.", "surgery:densify"),
            "add-expert": Verb(
                "Add experts that change nothing until they are trained.", "surgery:add_expert"
            ),
            "swap-expert": Verb("Replace an expert by one of another model.", "surgery:swap_expert"),
        },
        section=CHANGE,
    ),
    "serve": Verb("Serve a model over an OpenAI-compatible HTTP API.", "serve:serve", section=SERVE),
    "export-serve": Verb(
        "Write what vLLM, SGLang, llama.cpp or Ollama need to serve a model.",
        "export_serve:export_serve",
        section=SERVE,
    ),
    "bench": Verb("Put load on a server and time its replies.", "bench:bench", section=SERVE),
    "doctor": Verb(
        "What this machine offers; or, with a URL, grade a server.", "doctor:doctor", section=SERVE
    ),
    "data": Verb(
        "Look at training text before using it.",
        inner={
            "card": Verb("Count documents, bytes and slices, and what would be dropped.", "data:card"),
            "lint": Verb("Find what is wrong in training text or tuning examples.", "data:lint"),
        },
        section=LOOK,
    ),
    "index": Verb(
        "Which evaluation items are in the text that a model was trained on.",
        inner={
            "build": Verb("Index text that was not packed here.", "index:build"),
            "query": Verb("Sort items into clean, contaminated and unscannable.", "index:query"),
            "export": Verb("Write the form of an index that can be shared.", "index:export"),
            "find": Verb("Name the documents that hold evaluation items.", "index:find"),
            "show": Verb("The stages behind a model and what their indexes have seen.", "index:show"),
        },
        section=CHECK,
    ),
    "task": Verb(
        "Tasks with checkable answers: list, show, check, write rows.",
        inner={
            "list": Verb("The built-in tasks.", "task:tasks"),
            "show": Verb("Problems with their worked replies.", "task:show"),
            "check": Verb("Try a task's checker before anything is trained on it.", "task:check"),
            "rows": Verb("Rows for tuning, or text for pretraining.", "task:rows"),
        },
        section=LOOK,
    ),
    "plan": Verb(
        "What something will cost, from config.json alone.",
        inner={
            "tune": Verb("Memory and time of tuning, and what makes it fit.", "plan:tune"),
            "serve": Verb("What of a model fits into memory, and how fast it answers.", "plan_serve:serve"),
        },
        section=LOOK,
    ),
    "schema": Verb("JSON schema of a YAML file of settings, for editors.", "schema:schema", section=LOOK),
}

INTERRUPTED = 130  # exit code after Ctrl-C, as shells give it

app = group(VERBS, "Train, compare, inspect and talk to dense and mixture-of-experts language models.")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"coterie {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show warnings and errors only, no progress and no notes.")
    ] = False,
) -> None:
    """Take the options that come before a verb."""
    show_messages(quiet=quiet)


def main() -> None:
    """Run the command line; errors meant for users are one line on standard error and a non-zero exit."""
    _end_on_sigterm()
    try:
        status = app(prog_name="coterie", standalone_mode=False)
        if status == INTERRUPTED:  # what typer makes of Ctrl-C
            _fail("stopped", INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)
    except BrokenPipeError:
        sys.stderr.close()
    except typer.Abort as stopped:
        _fail("stopped", INTERRUPTED if isinstance(stopped.__cause__, KeyboardInterrupt) else 1)
    except Exception as error:
        if isinstance(error, _UsageError):
            _misused(error)
        # Imported here: the settings behind it would double the start-up time of --help.
        from coterie.config.errors import CoterieError

        if isinstance(error, CoterieError):
            _fail(str(error), error.exit_code)
        reason = _outside_reason(error)
        if reason is not None:
            _fail(reason, 1)
        raise


def _outside_reason(error: Exception) -> str | None:
    """What the system or the input did, in words; None for a fault of the program, which keeps its traceback.

    Readers raise errors that name the file; what arrives here are the few that none of them expects.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'system'}: {error.strerror}"
    # torch reports refused memory as RuntimeError: "... can't allocate memory", "CUDA out of memory".
    words = str(error).lower()
    if isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words:
        return "not enough memory; use a smaller model, type, length or batch"
    if isinstance(error, UnicodeDecodeError):
        found = f"byte {error.start:,} is {error.object[error.start]:#04x}"
        return f"a file is not UTF-8 text ({found}); save it as UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a text holds half of a surrogate pair, which no file can hold; write whole characters"
    return None


def _end_on_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does, so that what it was writing is removed: with status 143.

    Verbs that go on after a signal (train, tune, serve) set other handlers.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


# Wrong options raise it. Typer exports it only as a base class: newer versions carry their own copy of click.
_UsageError: Any = typer.BadParameter.__base__


def _misused(error: Any) -> None:
    """One line for a wrong option; a verb or group without arguments gets its help."""
    message = error.format_message()
    if "\n" in message:
        print(message, file=sys.stderr)
        sys.exit(error.exit_code)
    path = error.ctx.command_path if error.ctx is not None else "coterie"
    joint = " " if message.endswith("?") else "; "
    _fail(f"{message.rstrip('.')}{joint}see {path} --help", error.exit_code)


def _fail(message: str, code: int) -> None:
    from coterie.text.printable import printable

    print(printable(f"coterie: {' '.join(message.split())}"), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
