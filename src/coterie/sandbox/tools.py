"""Tools that a model may call: files of a folder, a calculator, Python in the sandbox, HTTP."""

from __future__ import annotations

import ipaddress
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from coterie.config.errors import CoterieError
from coterie.sandbox.arithmetic import evaluate
from coterie.sandbox.folder import Folder
from coterie.sandbox.outside import Sandbox
from coterie.sandbox.schemas import problem
from coterie.text.tools import CALCULATOR, LIST_FILES, PYTHON, READ_FILE, WRITE_FILE, function, texts


class ToolError(CoterieError):
    """A call failed. The model sees the message and may try something else."""


def usable_tool(
    tools: Mapping[str, Tool], name: str, arguments: Mapping[str, Any], broken: str | None = None
) -> Tool:
    """The tool that a call names, with arguments that it can take.

    `broken`: why the arguments could not be read. Errors: `ToolError`, which the model should see.
    """
    if broken is not None:
        raise ToolError(f"arguments of {name} are not a usable JSON object: {broken}")
    if name not in tools:
        raise ToolError(f"there is no tool '{name}'; there are {', '.join(tools)}")
    tools[name].check(arguments)
    return tools[name]


class Tool(ABC):
    """One function for the model. `writes`: it changes something outside, so a call needs approval."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    writes: bool = False

    @abstractmethod
    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        """Make the call within `seconds`; the text of its result. Errors: `CoterieError` when it fails."""

    def spec(self) -> dict[str, Any]:
        """The tool as the OpenAI API and chat templates describe it."""
        return function(self.name, self.description, dict(self.parameters))

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Errors: `ToolError` for arguments that break the tool's schema."""
        wrong = problem(dict(arguments), self.parameters)
        if wrong is not None:
            raise ToolError(f"arguments of {self.name}: {wrong}")

    def close(self) -> None:  # noqa: B027 - most tools hold no resource
        """Release what the tool holds."""


def call_tool(tool: Tool, arguments: Mapping[str, Any], seconds: float = 10.0) -> str:
    """The result of a call as the model sees it: a text, which begins with `error:` when the call failed."""
    try:
        tool.check(arguments)
        return tool.call(arguments, seconds)
    except (CoterieError, OSError) as error:
        return f"error: {error}"


def _described(spec: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    described = spec["function"]
    return described["name"], described["description"], described["parameters"]


class ListFiles(Tool):
    """Lists the names in a folder."""

    name, description, parameters = _described(LIST_FILES)

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        return "\n".join(self._folder.names(arguments.get("path") or ".")) or "(empty)"


class ReadFile(Tool):
    """Reads a text file."""

    name, description, parameters = _described(READ_FILE)

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        return self._folder.read(arguments["path"])


class WriteFile(Tool):
    """Writes a text file, new or replaced."""

    name, description, parameters = _described(WRITE_FILE)
    writes = True

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        return f"wrote {self._folder.write(arguments['path'], arguments['content'])} bytes"


class Calculator(Tool):
    """Works out arithmetic, exactly for whole numbers."""

    name, description, parameters = _described(CALCULATOR)

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        return evaluate(arguments["expression"])


class Python(Tool):
    """Runs a Python program in the sandbox."""

    name, description, parameters = _described(PYTHON)

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        """What the program printed, and which limit ended it, if one did. Errors: `SandboxError`."""
        result = self._sandbox.run(arguments["code"], seconds)
        said = result.stdout + ("\n" if result.stdout and result.stderr else "") + result.stderr
        if result.ending == "time":
            return f"{said}\n(ended: longer than {seconds:g} s)"
        if result.ending == "output":
            return f"{said}\n(ended: it printed too much)"
        return said or f"(no output; exit status {result.status})"


class HttpGet(Tool):
    """Fetches a page from one of the hosts that the user named."""

    name = "http_get"
    parameters = texts(["url"], url="the address")

    def __init__(self, hosts: Sequence[str], longest: int = 256 * 2**10) -> None:
        self.hosts = tuple(hosts)
        self.description = f"Fetch a page over HTTP; only of these hosts: {', '.join(hosts)}."
        self._longest = longest

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        """Status and text of the page.

        Errors: `ToolError` for another host, a failure, and a page that is too long or too slow.
        """
        import httpx2

        url = arguments["url"]
        pinned, headers, extensions = self._pin(url)
        try:
            with (
                httpx2.Client(timeout=seconds, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", pinned, headers=headers, extensions=extensions) as response,
            ):
                body, end = b"", time.monotonic() + seconds
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > self._longest:
                        raise ToolError(f"{url}: longer than {self._longest} bytes")
                    if time.monotonic() > end:
                        raise ToolError(f"{url}: not done within {seconds:g} s")
                moved = (
                    f"\nlocation: {response.headers['location']}" if "location" in response.headers else ""
                )
                return f"status {response.status_code}{moved}\n{body.decode('utf-8', 'replace')}"
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ToolError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}") from None

    def _pin(self, url: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        """The URL with the host's resolved IP address in it, its headers, and httpx's extensions.

        The address is pinned because the name could resolve to another one when the page is fetched. A name
        must not resolve to this machine or its network, unless the user named an IP address or localhost.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ToolError(f"{url}: not an address") from None
        port = port or (443 if parts.scheme == "https" else 80)
        if (
            parts.scheme not in ("http", "https")
            or not {host, f"{host}:{port}"} & set(self.hosts)
            or parts.username
        ):
            raise ToolError(f"{url}: not allowed; the hosts are {', '.join(self.hosts)}")
        try:
            number = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            raise ToolError(f"{url}: {error.strerror}") from None
        named = host == "localhost" or host == number
        if not named and not ipaddress.ip_address(number).is_global:
            raise ToolError(
                f"{url}: {host} leads to {number}, which is not on the internet; allow that number to "
                "fetch it"
            )
        at = f"[{number}]" if ":" in str(number) else number
        query = f"?{parts.query}" if parts.query else ""
        pinned = f"{parts.scheme}://{at}:{port}{parts.path or '/'}{query}"
        return pinned, {"host": parts.netloc}, {"sni_hostname": host} if parts.scheme == "https" else {}
