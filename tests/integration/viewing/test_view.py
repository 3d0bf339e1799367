"""`view` serves a page and the store on this machine, and says in one line what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.data import copy_demo

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_demo(tmp_path_factory.mktemp("view") / "blastocyst.ome.zarr").image


def start(store: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Run the command until its page answers."""
    command = [sys.executable, "-m", "embedseg_large", "view", str(store), "--web", "--no-browser"]
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = ""
    while "to end" not in lines:
        line = process.stdout.readline()
        if not line:  # it has ended
            raise AssertionError(process.communicate())
        lines += line
    found = re.search(r"page +(http://\S+)", lines)
    assert found is not None
    return process, found[1].removesuffix("/")


@pytest.fixture(scope="module")
def page(store: Path) -> Iterator[str]:
    process, url = start(store)
    try:
        yield url
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=20)[1]
    finally:  # what is left of it would disturb other tests
        process.kill()
        process.communicate()
    assert (process.returncode, error) == (0, "stopped\n")


def get(url: str, **headers: str) -> Any:
    return urlopen(Request(url, headers=headers), timeout=20)


def test_the_page_knows_what_there_is(page: str, store: Path) -> None:
    about = json.load(get(f"{page}/scene.json"))
    assert (about["axes"], about["shape"]) == ("zyx", [118, 137, 135])
    assert (about["title"], about["labels"]) == (store.name, ["truth"])
    assert f"{page}/data/0".replace(":", "%3A").replace("/", "%2F") in about["neuroglancer"]
    assert "src=" not in get(f"{page}/").read().decode().replace(
        "view.img.src = ", ""
    )  # nothing remote


def test_planes_are_pictures(page: str) -> None:
    answer = get(f"{page}/plane?axis=y&index=60&labels=truth&style=filled")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.read(4) == b"\x89PNG"
    for wrong in ("axis=z&index=118", "axis=q", "index=1", "axis=z&index=one", "axis=z&style=x"):
        with pytest.raises(HTTPError, match="400"):
            get(f"{page}/plane?{wrong}")


def test_parts_of_files_are_for_neuroglancer_only(page: str, store: Path) -> None:
    answer = get(f"{page}/data/0/zarr.json", Range="bytes=4-9")
    assert answer.status == 206
    assert answer.read() == (store / "zarr.json").read_bytes()[4:10]
    allowed = answer.headers["Access-Control-Allow-Origin"]
    assert allowed == "https://neuroglancer-demo.appspot.com"
    asked = Request(f"{page}/data/0/zarr.json", method="OPTIONS")
    assert urlopen(asked, timeout=20).status == 204


@pytest.mark.parametrize(
    "path", ["/data/0/../secret", "/data/0/%2e%2e/secret", "/data/1/x", "/secret"]
)
def test_nothing_else_is_served(page: str, store: Path, path: str) -> None:
    (store.parent / "secret").write_text("secret")
    host, port, key = page.removeprefix("http://").replace(":", "/").split("/")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(
            f"GET /{key}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert answer.split()[1] in (b"403", b"404")


def test_a_web_site_cannot_reach_in_under_its_own_name(page: str) -> None:
    with pytest.raises(HTTPError, match="404"):
        get(f"{page}/scene.json", Host="evil.example")


def test_other_users_of_the_machine_do_not_know_the_key(page: str) -> None:
    site, _, key = page.rpartition("/")
    assert len(key) >= 20
    other = f"{'y' if key[0] == 'x' else 'x'}{key[1:]}"
    for path in ("/", "/scene.json", "/plane?axis=z", "/data/0/zarr.json", f"/{other}/"):
        with pytest.raises(HTTPError, match="404"):
            get(f"{site}{path}")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_shows_three_planes_in_a_browser(page: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    options += ["--virtual-time-budget=15000", "--dump-dom"]
    ran = subprocess.run(
        [CHROMIUM, *options, f"{page}/"], capture_output=True, text=True, timeout=120, check=True
    )
    assert len(re.findall(r'<img [^>]*src="blob:', ran.stdout)) == 3
    assert re.search(r"<output>z 59 · 59\.0 µm</output>", ran.stdout)
    assert re.search(r'<span id="error" role="alert"></span>', ran.stdout)
    assert '<option value="truth">truth</option>' in ran.stdout


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["view", *map(str, arguments), "--web", "--no-browser"])


def test_mistakes_are_one_line(store: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            ((tmp_path / "absent",), "there is no such file or folder"),
            ((store, "--labels", "nuclei"), "no labels 'nuclei', there are truth"),
            ((store, "--port", port), f"port {port} cannot be used (Address already in use)"),
        ):
            result = run(*arguments)
            assert result.exit_code == 2
            assert message in result.stderr
            assert result.stderr.count("\n") == 1


def test_a_batch_system_may_end_it_as_well(store: Path) -> None:
    process, _ = start(store)
    process.terminate()
    assert process.communicate(timeout=20)[1] == "stopped\n"
    assert process.returncode == 0


def test_a_remote_store_gets_a_link_and_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("a.ome.zarr", np.arange(64, dtype=np.uint16).reshape(8, 8))
    result = run(f"{web.url}/a.ome.zarr")
    assert result.exit_code == 0, result.stderr
    assert "https://neuroglancer-demo.appspot.com/#!" in result.stdout
    assert f"zarr3://{web.url}/a.ome.zarr".replace(":", "%3A").replace("/", "%2F") in result.stdout


def test_napari_is_used_where_it_is(store: Path, tmp_path: Path) -> None:
    (tmp_path / "napari.py").write_text(
        "class Viewer:\n"
        "    def __init__(self, title): pass\n"
        "    def add_image(self, data, **more): print('image', data.shape)\n"
        "    def add_labels(self, data, **more): print('labels', data.shape)\n"
        "def run(): print('run')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "embedseg_large", "view", str(store)],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split("\n")[:3] == [
        "image (118, 137, 135)",
        "labels (118, 137, 135)",
        "run",
    ]
