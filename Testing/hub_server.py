"""A hub on this computer, as huggingface_hub speaks to one: HEAD with the version, a redirect, GET with ranges, and bad lines."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server gives, and how badly.

    Attributes:
        files: "owner/name/path" → content.
        cuts: After how many bytes of an answer the line breaks, one an answer; later answers are whole.
        resets: A cut ends in a reset, as a proxy's does, not in an orderly end.
        busy: Answer 503 to so many downloads first.
        dead_after_cut: Answer 503 to every GET after the first cut.
        status: Answer everything with it; 0: do not. 403 is that of a repository with terms to accept.
        longer: Announce so many bytes more than there are.
        announced: The SHA-256 that is announced in the place of the true one.
        plain: Answer like any web server, without what makes a hub.
        ignores_ranges: Answer a range with the whole file.
        pause_s: Wait so long before each file's content.
        requests: "METHOD path range" of each request.
        told: "hub" or "content", and the log-in that came with a request for it.
        url: Where it listens.
    """

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    resets: bool = False
    busy: int = 0
    dead_after_cut: bool = False
    status: int = 0
    longer: int = 0
    announced: str = ""
    plain: bool = False
    ignores_ranges: bool = False
    pause_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    url: str = ""

    def gets(self) -> list[str]:
        """The ranges of all downloads, "" for whole ones."""
        return [text.split(" ", 2)[2] for text in self.requests if text.startswith("GET /store/")]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        self._answer(self.headers.get("Range", ""))

    def _answer(self, span: str | None) -> None:
        hub = self.hub
        place = "content" if self.path.startswith("/store/") else "hub"
        hub.told.append(f"{place} {self.headers.get('Authorization', '')}".strip())
        hub.requests.append(f"{self.command} {self.path} {span or ''}")
        content = hub.files.get(
            self.path.lstrip("/").replace("store/", "").replace(f"resolve/{COMMIT}/", "").replace("resolve/main/", "")
        )
        if hub.status or content is None:
            reason = {404: "EntryNotFound", 403: "GatedRepo"}.get(hub.status or 404)
            self._head(hub.status or 404, {"X-Error-Code": reason} if reason else {}, b"")
        elif "/resolve/" in self.path:
            digest = hub.announced or hashlib.sha256(content).hexdigest()
            version = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content) + hub.longer),
            }
            there = self.path.replace(f"resolve/{COMMIT}/", "").replace("resolve/main/", "")
            place = f"http://localhost:{self.server.server_port}/store{there}"  # type: ignore[attr-defined]
            self._head(200 if hub.plain else 302, {} if hub.plain else {**version, "Location": place}, b"")
        else:
            self._give(content, "" if hub.ignores_ranges else span or "")

    def _give(self, content: bytes, span: str) -> None:
        hub = self.hub
        threading.Event().wait(hub.pause_s)
        if hub.busy or (hub.dead_after_cut and not hub.cuts):
            hub.busy = max(0, hub.busy - 1)
            self._head(503, {}, b"")
            return
        start = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        part, status = content[start:], 206 if span else 200
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if span else {}
        if not hub.cuts:
            self._head(status, headers, part)
            return
        self._head(status, headers, part, part[: hub.cuts.pop(0)])
        self.close_connection = True
        if hub.resets:
            self.wfile.flush()
            threading.Event().wait(0.2)  # until what was sent is read: a reset throws away what was not
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _head(self, status: int, headers: dict[str, str], body: bytes, sent: bytes | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if sent is None else sent)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the end."""
    answers = type("Answers", (_Answers,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def hub_of(folder: Path, *repositories: tuple[str, str]) -> Hub:
    """Return a hub of files of a folder, each (repository, name) at models/name."""
    return Hub({f"{repository}/models/{name}": (folder / name).read_bytes() for repository, name in repositories})
