"""Answers of a bucket that are cut half-way are requested again, and nothing is listed twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from embedseg_large.errors import UnreachableError
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import Retries

pytest.importorskip("obstore")
NAMES = [f"{n:04d}" for n in range(2500)]
PAGE = 1000


class Cutting(BaseHTTPRequestHandler):
    """Lists `NAMES` below ``run/`` as S3 does; cuts the first answer to each request, or all."""

    requested: ClassVar[set[str]] = set()
    always = False

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        after = query.get("continuation-token") or query.get("start-after") or ""
        keys = [key for name in NAMES if (key := f"run/{name}") > after]
        found = "".join(
            f"<Contents><Key>{key}</Key><Size>1</Size>"
            "<LastModified>2026-11-30T12:00:00.000Z</LastModified></Contents>"
            for key in keys[:PAGE]
        )
        token = "<NextContinuationToken>{}</NextContinuationToken>"
        more = token.format(keys[PAGE - 1]) if len(keys) > PAGE else ""
        body = f"<ListBucketResult>{found}{more}</ListBucketResult>"
        is_cut = self.always or self.path not in self.requested
        self.requested.add(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode()[: len(body) // 2 if is_cut else None])
        self.wfile.flush()
        if is_cut:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteFolder]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(Cutting, "requested", set())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield RemoteFolder.at("s3://embryos/run", Retries(total=5.0, silence=1.0))
    http.shutdown()
    thread.join()
    http.server_close()


def test_listings_go_on_where_they_were_cut(folder: RemoteFolder) -> None:
    assert list(folder.names()) == NAMES
    assert folder.some_names() == NAMES[:PAGE]
    assert folder.digest()
    assert folder.children() == NAMES


def test_a_listing_that_is_always_cut_is_one_line(
    folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cutting, "always", True)
    soon = RemoteFolder.at(folder.path, Retries(total=0.5, silence=0.2))
    for listing in (soon.children, lambda: list(soon.names())):
        with pytest.raises(UnreachableError, match=r"^s3://embryos/run: [^\n]*later$"):
            listing()
