"""Web servers that ask for a password, and buckets that say "forbidden" of what is not there."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UnreachableError
from embedseg_large.labels.published import label_names, provenance_of
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.volume import open_volume

if TYPE_CHECKING:
    from tests.integration.conftest import Faults

IMAGE = np.arange(1, 513, dtype=np.uint16).reshape(8, 8, 8)


class Guard(BaseHTTPRequestHandler):
    """Files of a folder, to who has the password; of what is not there the status `absent`."""

    root: Path
    absent = 404
    forbidden = ""
    """Path of the one object that nobody may read."""
    password: str | None = None

    def do_GET(self) -> None:
        login = f"Basic {base64.b64encode((self.password or '').encode()).decode()}"
        path = self.root / self.path.strip("/")
        if self.password is not None and self.headers.get("Authorization") != login:
            self.answer(401)
        elif self.forbidden and self.path == self.forbidden:
            self.answer(403)
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


@pytest.mark.parametrize("name", ["new.zarr", "old.zarr"])
def test_a_chunk_that_was_never_written_is_the_fill_value_where_absent_objects_are_forbidden(
    guard: tuple[type[Guard], str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, host = guard
    handler.absent = 403
    for chunk in (path for path in (handler.root / name / "0").rglob("*") if path.is_file()):
        if chunk.name not in ("zarr.json", ".zarray", ".zattrs"):
            chunk.unlink()
    volume = open_volume(f"http://{host}/{name}")
    assert not volume.data.compute().any()
    assert "chunks that it refuses count as never written" in caplog.text


def test_chunks_are_still_denied_where_the_server_tells_them_from_absent_ones(
    guard: tuple[type[Guard], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, host = guard
    volume = open_volume(f"http://{host}/old.zarr")
    (handler.root / "old.zarr/0/0/0/0").unlink()
    monkeypatch.setattr(handler, "forbidden", "/old.zarr/0/0/0/0")
    with pytest.raises(UnreachableError, match=r"access denied .403"):
        volume.data.compute()


def test_an_expired_login_is_no_absence(guard: tuple[type[Guard], str]) -> None:
    handler, host = guard
    volume = open_volume(f"http://{host}/old.zarr")
    assert volume.storage.array is not None
    handler.password = "me:new"
    with pytest.raises(UnreachableError, match=r"access denied"):
        volume.data.compute()


def unnamed_separator(root: Path) -> None:
    """Chunks in nested folders, of which the metadata say nothing."""
    document = root / "old.zarr/0/.zarray"
    about = json.loads(document.read_text())
    assert about.pop("dimension_separator") == "/"
    document.write_text(json.dumps(about))


def test_nested_chunks_are_found_on_a_server_that_lists_nothing(
    guard: tuple[type[Guard], str],
) -> None:
    handler, host = guard
    unnamed_separator(handler.root)
    for handler.absent in (404, 403):
        found = open_volume(f"http://{host}/old.zarr").data.compute()
        np.testing.assert_array_equal(found, IMAGE)


def test_nested_chunks_are_found_in_a_bucket(
    guard: tuple[type[Guard], str], faults: Faults
) -> None:
    handler, _ = guard
    unnamed_separator(handler.root)
    folder = folder_at("s3://embryos/old.zarr")
    for path in (handler.root / "old.zarr").rglob("*"):
        if path.is_file():
            folder.write(str(path.relative_to(handler.root / "old.zarr")), path.read_bytes())
    found = open_volume("s3://embryos/old.zarr").data.compute()
    np.testing.assert_array_equal(found, IMAGE)
    assert faults.requests
