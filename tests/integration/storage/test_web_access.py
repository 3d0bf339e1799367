"""Web servers that ask for a password, and buckets that say "forbidden" of what is not there."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UnreachableError
from embedseg_large.labels.published import label_names, provenance_of
from embedseg_large.volumes.volume import open_volume

IMAGE = np.arange(1, 513, dtype=np.uint16).reshape(8, 8, 8)


class Guard(BaseHTTPRequestHandler):
    """Files of a folder, to who has the password; of what is not there the status `absent`."""

    root: Path
    absent = 404
    password: str | None = None

    def do_GET(self) -> None:
        login = f"Basic {base64.b64encode((self.password or '').encode()).decode()}"
        path = self.root / self.path.strip("/")
        if self.password is not None and self.headers.get("Authorization") != login:
            self.answer(401)
        elif not path.is_file():
            self.answer(self.absent)
        else:
            data = path.read_bytes()
            start, stop = 0, len(data)
            if asked := self.headers.get("Range"):
                first, _, last = asked.partition("=")[2].partition("-")
                start = int(first) if first else stop - int(last)
                stop = int(last) + 1 if first and last else stop
            self.answer(206 if asked else 200, data[start:stop], f"{start}-{stop - 1}/{len(data)}")

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, data: bytes = b"", part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        if status == 206:
            self.send_header("Content-Range", f"bytes {part}")
        self.end_headers()
        self.wfile.write(data if self.command == "GET" else b"")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Guard], str]]:
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "2")
    write_image(tmp_path / "new.zarr", IMAGE, voxel_size=(2, 1, 1))
    write_image(tmp_path / "old.zarr", IMAGE, voxel_size=(2, 1, 1), ngff_version="0.4")
    handler = type("Handler", (Guard,), {"root": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["new.zarr", "old.zarr"])
def test_a_complete_store_opens_where_absent_objects_are_forbidden(
    guard: tuple[type[Guard], str], name: str
) -> None:
    handler, host = guard
    handler.absent = 403
    volume = open_volume(f"http://{host}/{name}")
    np.testing.assert_array_equal(volume.data.compute(), IMAGE)
    assert label_names(f"http://{host}/{name}") == []
    assert provenance_of(f"http://{host}/{name}") == {}
    with pytest.raises(UnreachableError, match=r"access denied .403"):
        open_volume(f"http://{host}/nothing.zarr")


def test_a_password_in_the_url_is_sent_and_never_shown(guard: tuple[type[Guard], str]) -> None:
    handler, host = guard
    handler.password = "me:open sesame"
    volume = open_volume(f"http://me:open%20sesame@{host}/new.zarr")
    np.testing.assert_array_equal(volume.data.compute(), IMAGE)
    assert "sesame" not in volume.name
    for login in ("", "me:wrong@"):
        with pytest.raises(UnreachableError, match="put USER:PASSWORD@ before") as no:
            open_volume(f"http://{login}{host}/new.zarr")
        assert "wrong" not in str(no.value)
