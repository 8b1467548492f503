"""What stands in the way of another project's tasks, as one line that says what to do."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec

from coterie.config import ConfigError, CoterieError

_NO_NETWORK = (
    "offlinemodeisenabled", "couldn't reach", "couldn't connect", "connection error", "connectionerror",
    "max retries", "name or service not known", "temporary failure in name resolution",
    "network is unreachable", "cannot send a request", "connecterror", "localentrynotfounderror",
    "urlopen error", "offline mode",
)  # fmt: skip


def installed_version(module: str, package: str, extra: str) -> str:
    """The version of a package. Errors: `ConfigError` where it is not installed, with its `extra`."""
    if find_spec(module) is None:
        raise ConfigError(f"{package} is not installed; run pip install 'coterie[{extra}]'")
    return version(package)


@contextlib.contextmanager
def one_line(label: str, tool: str) -> Iterator[None]:
    """Whatever fails in `tool` is a `ConfigError` of one line, behind `label`, that says what to do."""
    try:
        yield
    except CoterieError:
        raise
    except Exception as error:
        raise ConfigError(f"{label}: {_reason(error, tool)}") from error


def first_line(error: BaseException | str) -> str:
    """The words of an error, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def _reason(error: BaseException, tool: str) -> str:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    words = " ".join(f"{type(each).__name__} {each}" for each in chain).lower()
    first = first_line(error)
    if any(sign in words for sign in _NO_NETWORK):
        missing = re.search(r"reach '([^']+)'", str(error))
        what = f"the data set '{missing.group(1)}'" if missing else f"something from the network ({first})"
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
        why = "HF_HUB_OFFLINE is set" if offline else "it cannot be reached"
        local = "a YAML" if tool == "lm-eval" else "a task"
        return (
            f"needs {what}, which is not on this machine, and {why}; run it once with a network and without "
            f"HF_HUB_OFFLINE, or copy the cache of such a machine (HF_HOME), or give {local} with local data"
        )
    absent = next((one for one in chain if isinstance(one, ModuleNotFoundError)), None)
    if absent is not None:
        return f"needs the package {absent.name}; run pip install {absent.name}"
    return f"cannot be used by {tool} ({type(error).__name__}: {first})"
