"""A hub in this process: the endpoints that the real client of Hugging Face uses, with faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 1000  # bytes; larger files are LFS files, whose hash is a SHA-256


def commit_of(mark: str) -> str:
    """A commit hash for a name."""
    return hashlib.sha1(mark.encode()).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


@dataclass
class Revision:
    commit: str
    files: dict[str, bytes]


@dataclass
class FakeHub:
    """`models`: repo -> revision name -> `Revision`. The other fields are faults.

    `gated`, `private`: repos whose files need the token "hf_right". `broken`: file -> how many bytes one
    connection gives before it ends. `stated`: file -> the SHA-256 that is stated instead of the right one.
    `down`: whether every request fails with 503. `last`: the file after which
    it is.
    `most`: bytes of one answer; a larger one is refused.
    `pace`: seconds between two megabytes. `seen`: (method, path, Range header) of each request.
    """

    models: dict[str, dict[str, Revision]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)
    down: bool = False
    last: str | None = None
    pace: float = 0.0
    most: int = 2**62
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo: str, files: Mapping[str, bytes], revision: str = "main", mark: str = "one") -> str:
        """Let a branch or tag hold these files; returns its commit."""
        commit = commit_of(repo + mark)
        self.models.setdefault(repo, {})[revision] = Revision(commit, dict(files))
        return commit

    def requests(self, word: str, method: str = "GET") -> list[str | None]:
        """The Range headers of the requests whose path contains a word."""
        return [ranged for made, path, ranged in self.seen if made == method and word in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        path = [unquote(part) for part in url.path.strip("/").split("/")]
        self.seen.append((request.command, unquote(url.path), request.headers["Range"]))
        if self.down:
            return _reply(request, 503, b"down")
        if path[:2] == ["api", "models"]:
            return self._api(request, "/".join(path[2:4]), path[4:], parse_qs(url.query))
        if path[2:3] != ["resolve"]:
            return _reply(request, 404, b"")
        return self._file(request, "/".join(path[:2]), path[3], "/".join(path[4:]))

    def _revision(self, request: BaseHTTPRequestHandler, repo: str, name: str) -> Revision | None:
        allowed = request.headers["Authorization"] == "Bearer hf_right"
        if repo not in self.models or (repo in self.private and not allowed):
            _reply(request, 401 if repo in self.private else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        named = self.models[repo] | {found.commit: found for found in self.models[repo].values()}
        if name not in named:
            _reply(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return named.get(name)

    def _api(
        self, request: BaseHTTPRequestHandler, repo: str, rest: list[str], query: dict[str, Any]
    ) -> None:
        found = self._revision(request, repo, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return
        entries = [self._entry(name, content) for name, content in found.files.items()]
        if rest[:1] == ["tree"]:
            listed: Any = [
                {"type": "file", "path": e["rfilename"], "size": e["size"], "oid": e["blobId"]}
                | ({"lfs": e["lfs"]} if "lfs" in e else {})
                for e in entries
            ]
        else:
            named = entries if "blobs" in query else [{"rfilename": e["rfilename"]} for e in entries]
            listed = {"id": repo, "modelId": repo, "sha": found.commit, "siblings": named, "tags": []}
            listed |= {"private": False, "downloads": 0, "likes": 0}
        _reply(request, 200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
        if len(content) >= LFS_FROM:
            entry["lfs"] = {"sha256": self._etag(name, content), "size": len(content), "pointerSize": 134}
            entry["lfs"]["oid"] = entry["lfs"]["sha256"]
        return entry

    def _etag(self, name: str, content: bytes) -> str:
        if len(content) < LFS_FROM:
            return git_sha1(content)
        return self.stated.get(name) or hashlib.sha256(content).hexdigest()

    def _file(self, request: BaseHTTPRequestHandler, repo: str, revision: str, name: str) -> None:
        found = self._revision(request, repo, revision)
        if found is None:
            return
        if repo in self.gated and request.headers["Authorization"] != "Bearer hf_right":
            status = 403 if request.headers["Authorization"] else 401
            return _reply(request, status, b"{}", {"X-Error-Code": "GatedRepo"})
        if name not in found.files:
            return _reply(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = found.files[name]
        headers = {"X-Repo-Commit": found.commit, "ETag": f'"{git_sha1(content)}"', "Accept-Ranges": "bytes"}
        if len(content) >= LFS_FROM:
            headers |= {"X-Linked-Etag": f'"{self._etag(name, content)}"', "X-Linked-Size": str(len(content))}
        if name == self.last and request.command == "GET":
            self.down = True
        start, _, last = (request.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")
        first, end = int(start), int(last) + 1 if last else len(content)
        if request.command == "GET" and end - first > self.most:
            return _reply(request, 400, b"too large")
        status = 200
        if request.headers["Range"]:
            status, headers["Content-Range"] = 206, f"bytes {first}-{end - 1}/{len(content)}"
        _reply(request, status, content[first:end], headers, self.broken.get(name), self.pace)


def _reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    most: int | None = None,
    pace: float = 0.0,
) -> None:
    """Send an answer; of a body longer than `most` bytes only so many, and then end the connection."""
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        with contextlib.suppress(ConnectionError):  # a client that was stopped
            for start in range(0, len(body if most is None else body[:most]), 2**20):
                request.wfile.write(body[start : min(start + 2**20, len(body) if most is None else most)])
                time.sleep(pace)
        if most is not None and most < len(body):
            request.wfile.flush()
            request.close_connection = True
