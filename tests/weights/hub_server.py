"""A server with repositories of files that speaks the Hugging Face Hub's protocol, as far as its client asks for files."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What it has, what it was asked for, and how it misbehaves."""

    endpoint: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """By ORG/NAME/FILE."""
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, path)."""
    cuts: bool = False
    """Breaks off the download of a large file in the middle, and has failed when it is asked for the rest."""
    spoils: bool = False
    """Sends large files with a changed byte."""

    @property
    def commit(self) -> str:
        """Of all that it has now."""
        return hashlib.sha1(repr([(name, zlib.crc32(self.files[name])) for name in sorted(self.files)]).encode()).hexdigest()

    def fetched(self, name: str) -> int:
        """How often a file was sent."""
        return sum(method == "GET" and path.endswith(name) for method, path in self.asked)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            parts = path.strip("/").split("/")
            repository, revision, name = "/".join(parts[:2]), (parts[3:4] or [""])[0], "/".join(parts[4:])
            if hub.cuts and "Range" in self.headers:
                return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "")
            if repository in hub.gated:
                return self._refuse(HTTPStatus.FORBIDDEN, "GatedRepo")
            if not any(file.startswith(f"{repository}/") for file in hub.files) and parts[0] != "files":
                return self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
            content = hub.files.get(path.strip("/") if parts[0] == "files" else f"{repository}/{name}")
            if parts[0] != "files" and revision not in ("main", "v1", hub.commit):
                return self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
            if content is None:
                return self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
            is_large = len(content) > 10_000
            tag = hashlib.sha256(content).hexdigest() if is_large else hashlib.sha1(content).hexdigest()
            self.send_response(HTTPStatus.OK)
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("ETag", f'"{tag}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                body = bytes([content[0], content[1] ^ 1]) + content[2:] if is_large and hub.spoils else content
                self.wfile.write(body[: len(body) // 2] if is_large and hub.cuts else body)
                self.close_connection = hub.cuts

        def _refuse(self, status: HTTPStatus, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
