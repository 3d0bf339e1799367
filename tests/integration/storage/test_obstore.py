"""What obstore says of failures: its messages are read where it has no exception of its own.

An update of obstore that words them differently fails here, and not at a user's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from embedseg_large.storage.connection import Retries, open_store
from embedseg_large.storage.failures import (
    failures,
    is_beyond_the_end,
    is_denied,
    is_missing_bucket,
    is_nobody_there,
    is_transient,
    is_without_ranges,
    reason,
)

obstore = pytest.importorskip("obstore")
ONCE = Retries(total=0.0, silence=0.3)


class Refusing(BaseHTTPRequestHandler):
    """Answers with the status that the name of the object is; or cuts, or is silent."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if name == "silent":
            threading.Event().wait(2)
            return
        about = b"<Error><Code>NoSuchBucket</Code></Error>" if name == "bucket" else b""
        status = {"bucket": 404, "whole": 200}.get(name) or int(name)
        self.send_response(status)
        self.send_header("Content-Length", str(len(about)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(about)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(params=["http", "s3"])
def store(request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return open_store(server if request.param == "http" else "s3://embryos", ONCE)


def raised(store: Any, name: str) -> BaseException:
    with pytest.raises((*failures(), FileNotFoundError)) as caught:
        store.get(name).bytes()
    return caught.value


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_refused_has_a_type_of_its_own(store: Any, status: int) -> None:
    error = raised(store, str(status))
    assert is_denied(error)
    assert not is_transient(error)
    assert "access denied" in reason(error)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 409])
def test_what_may_go_by_is_seen_to(store: Any, status: int) -> None:
    error = raised(store, str(status))
    assert is_transient(error)
    assert not is_denied(error)
    assert f"{status}" in reason(error)
    assert "127.0.0.1" in reason(error)


@pytest.mark.parametrize("name", ["cut", "silent"])
def test_so_are_connections_that_are_cut_or_silent(store: Any, name: str) -> None:
    assert is_transient(raised(store, name))


@pytest.mark.parametrize("status", [400, 412, 416])
def test_what_stays_wrong_is_not_tried_again(store: Any, status: int) -> None:
    error = raised(store, str(status))
    assert not is_transient(error)
    assert not is_denied(error)
    assert is_beyond_the_end(error) == (status == 416)


def test_what_is_not_there_is_a_missing_file_or_a_missing_bucket(store: Any) -> None:
    error = raised(store, "404")
    assert isinstance(error, FileNotFoundError)
    assert not is_missing_bucket(error)
    assert is_missing_bucket(raised(store, "bucket"))


def test_a_server_without_ranges_is_known(store: Any) -> None:
    with pytest.raises(failures()) as caught:
        obstore.get_range(store, "whole", start=0, length=2)
    assert is_without_ranges(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("http://nobody.invalid", "unknown host"),
        ("https{}", "no TLS there"),
    ],
)
def test_nobody_there_is_told_with_the_cause(server: str, url: str, words: str) -> None:
    error = raised(open_store(url.format(server.removeprefix("http")), ONCE), "x")
    assert is_nobody_there(error)
    assert words in reason(error)
