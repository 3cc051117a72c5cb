"""A stand-in for the Hugging Face hub, on loopback: the few answers that fetching a repository asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "owner/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The files it serves and what was asked of it.

    Attributes:
        files: path → bytes; those over ``large`` bytes are served as LFS files.
        lies: path → bytes that are sent instead, for files whose listing keeps the truth.
        broken: path → how many bytes to send before the connection breaks, once.
        listing: changes to the repository's listing.
    """

    large = 1000

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.lies: dict[str, bytes] = {}
        self.broken: dict[str, int] = {}
        self.commit = COMMIT
        self.asked: list[tuple[str, str, str | None]] = []
        self.extra: list[dict] = []
        self.endpoint = ""

    def siblings(self) -> list[dict]:
        """As the hub lists files with their metadata."""
        result: list[dict] = []
        for path, data in self.files.items():
            blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            entry: dict = {"rfilename": path, "size": len(data), "blobId": blob}
            if len(data) > self.large:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            result.append(entry)
        return result + self.extra


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve until the end of the block; the address is ``hub.endpoint``."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _json(self, status: int, value: object, **headers: str) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            for key, text in headers.items():
                self.send_header(key.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            api = f"/api/models/{REPOSITORY}"
            if path.startswith("/api/models/"):
                revision = path.removeprefix(f"{api}/revision/") if "/revision/" in path else "main"
                if not path.startswith(api):
                    self._json(404, {"error": "no"}, X_Error_Code="RepoNotFound")
                elif revision not in ("main", hub.commit):
                    self._json(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
                else:
                    self._json(200, {"id": REPOSITORY, "sha": hub.commit, "siblings": hub.siblings()})
                return
            prefix = f"/{REPOSITORY}/resolve/{hub.commit}/"
            name = path.removeprefix(prefix)
            if not path.startswith(prefix) or name not in hub.files:
                self._json(404, {"error": "no"}, X_Error_Code="EntryNotFound")
                return
            self._file(name, body=body)

        def _file(self, name: str, *, body: bool) -> None:
            data = hub.lies.get(name, hub.files[name])
            begin = 0
            wanted = self.headers.get("Range")
            if wanted is not None:
                begin = int(wanted.removeprefix("bytes=").split("-")[0])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            if not body:
                return
            stop = hub.broken.pop(name, None)
            self.wfile.write(data[begin:stop])
            if stop is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
