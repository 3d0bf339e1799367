"""Buckets and web servers that answer late, wrongly or not at all."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import (
    CorruptChunkError,
    LabelsExistError,
    MetadataError,
    OutputError,
    PlaceError,
    RunError,
    UnreachableError,
    UsageError,
    VolumeNotFoundError,
)
from embedseg_large.geometry import Box
from embedseg_large.labels.in_bucket import BucketLabels
from embedseg_large.labels.instances import InstanceTable
from embedseg_large.labels.pending import LabelTarget, PendingLabels
from embedseg_large.labels.published import label_names
from embedseg_large.labels.target import label_target
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import Retries
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.containers import container_at
from embedseg_large.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    from tests.integration.conftest import Faults, Web

pytest.importorskip("obstore")

BUCKET = "embryos"
QUICK = Retries(total=1.0, silence=0.3)
BOTH = pytest.mark.parametrize("version", ["0.4", "0.5"])
NEW = pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])

CheckNGFF = Callable[[Path, str], None]
CheckStore = Callable[[str, str, Path], None]


@pytest.fixture
def run(faults: Faults) -> RemoteFolder:  # noqa: ARG001
    folder = folder_at(f"s3://{BUCKET}/a run/.embedseg")
    assert isinstance(folder, RemoteFolder)
    return folder


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_bucket_keeps_objects_like_a_disk(run: RemoteFolder) -> None:
    run.write("tiles/0/1.json", b"first")
    run.write("tiles/0/1.json", b"second")
    assert run.read("tiles/0/1.json") == b"second"
    assert run.exists("tiles/0/1.json")
    assert not run.exists("tiles/0")
    assert run.create("lock", b"mine")
    assert not run.create("lock", b"mine")
    run.remove("lock")
    run.remove("lock")
    assert run.create("lock", b"yours")
    assert run.below("tiles").read("0/1.json") == b"second"
    with pytest.raises(FileNotFoundError, match=r"a run/.embedseg/none: there is no such object"):
        run.read("none")


@pytest.mark.slow
def test_an_object_larger_than_it_may_be_is_not_read(run: RemoteFolder) -> None:
    run.write("zarr.json", b"12345")
    assert run.read("zarr.json", 5) == b"12345"
    with pytest.raises(UnreachableError, match=r"zarr\.json: .* MiB, more than .* MiB"):
        run.read("zarr.json", 4)


def test_objects_of_a_bucket_are_listed_in_order_and_all_removed(run: RemoteFolder) -> None:
    names = sorted([f"tiles/{i}" for i in range(1001)] + ["a-b", "a/b", "a b/c", ".run", "z/ü#%"])
    beside = folder_at(f"s3://{BUCKET}/a run/.embedseg2")
    beside.write("kept", b"")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: run.write(name, b""), names))
    assert list(run.names()) == names
    assert list(run.names("a")) == ["a/b"]
    run.remove_all()
    assert list(run.names()) == []
    assert beside.exists("kept")


def test_many_objects_are_read_ahead_and_come_in_order(run: RemoteFolder) -> None:
    names = [f"{i:02d}" for i in range(40)]
    for name in names:
        run.write(name, name.encode())
    assert [data.decode() for data in run.read_all(iter(names))] == names
    found = run.read_all(["07", "none", "08"])
    assert next(found) == b"07"
    with pytest.raises(FileNotFoundError, match="none: there is no such object"):
        next(found)


def test_no_change_of_two_processes_is_lost_in_a_bucket(run: RemoteFolder) -> None:
    def repeat(_: int) -> None:
        for _ in range(5):
            run.update("n", lambda old: str(int(old or b"0") + 1).encode())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(repeat, range(3)))
    assert run.read("n") == b"15"


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable"])
def test_a_store_that_fails_now_and_then_is_asked_again(
    run: RemoteFolder, faults: Faults, status: str
) -> None:
    faults.every, faults.status = 3, status
    for i in range(10):
        assert run.create(str(i), b"x" * i)
        assert run.read(str(i)) == b"x" * i
    assert len(list(run.names())) == 10
    run.remove_all()
    assert list(run.names()) == []


def test_a_condition_holds_though_the_answer_was_lost(run: RemoteFolder, faults: Faults) -> None:
    faults.every, faults.late, faults.status = 2, True, "500 Internal Server Error"
    faults.requests.append("one more")
    assert run.create("lock", b"mine")
    faults.requests.append("one more")
    assert not run.create("lock", b"yours")
    for _ in range(4):
        run.update("n", lambda old: (old or b"") + b"1")
    assert run.read("n") == b"1111"


def test_a_store_that_stays_down_is_one_clear_line(run: RemoteFolder, faults: Faults) -> None:
    quick = replace(run, retries=QUICK)
    faults.every, faults.status = 1, "503 Service Unavailable"
    for write in (lambda: quick.write("a", b""), lambda: quick.create("a", b"")):
        with pytest.raises(OutputError, match=r"embedseg/a: no proper response .503 ") as failed:
            write()
        assert "\n" not in str(failed.value)
    with pytest.raises(UnreachableError, match=r"no proper response .503 .*tried ") as read:
        quick.read("a")
    assert "topsecret" not in str(read.value)


def test_a_server_that_hangs_is_one_clear_line(
    run: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UnreachableError, match=r"no proper response .timed out, from http"):
            replace(run, retries=QUICK).read("a")


def test_what_a_bucket_refuses_is_explained(
    run: RemoteFolder, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = folder_at("s3://nowhere/a")
    with pytest.raises(OutputError, match="s3://nowhere/a/b: there is no such bucket at http"):
        nowhere.write("b", b"")
    with pytest.raises(UnreachableError, match="there is no such bucket"):
        nowhere.read("b")
    faults.every, faults.status = 1, "403 Forbidden"
    with pytest.raises(
        UnreachableError, match=r"access denied .403 Forbidden, from .*; check the cred"
    ):
        run.read("a")
    for module in ("obstore", "obstore.store", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    for needs in (lambda: run.read("a"), lambda: run.write("a", b""), lambda: open_volume(IMAGE)):
        with pytest.raises(UsageError, match=r'needs obstore; pip install "embedseg-large\[s3\]"'):
            needs()


def test_a_web_server_is_not_written_to() -> None:
    with pytest.raises(PlaceError, match="https://host/a/b: web servers are read only"):
        folder_at("https://host/a?sig=secret").write("b", b"")


# Nobody there ---------------------------------------------------------------------------------


def test_a_wrong_end_point_is_named_within_seconds(
    run: RemoteFolder, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", nowhere)
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "60")
    monkeypatch.setattr("embedseg_large.storage.bucket._FIRST_SECONDS", 0.3)
    patient = folder_at(run.path)
    said = rf"connection refused, from {nowhere}, tried \d.*or correct AWS_ENDPOINT_URL"
    began = monotonic()
    asked = [partial(ask, IMAGE) for ask in (open_volume, container_at, label_names)]
    for ask in (*asked, patient.check_reachable, patient.check_writable):
        with pytest.raises(UnreachableError, match=said) as failed:
            ask()
        assert "topsecret" not in str(failed.value)
    assert monotonic() - began < 20


def test_https_where_only_http_is_spoken_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedseg_large.storage.bucket._FIRST_SECONDS", 0.3)

    class Plain(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        said = f"perhaps http://, .*from {url}, .*correct the URL"
        with pytest.raises(UnreachableError, match=said) as failed:
            open_volume(f"{url}/a.zarr?signature=secret")
        server.shutdown()
    assert "secret" not in str(failed.value)


def test_an_image_in_a_bucket_that_is_not_there_is_told_from_one_that_is_missing(
    faults: Faults,
) -> None:
    assert not faults.requests
    with pytest.raises(UnreachableError, match=r"no such bucket at http://127.*AWS_ENDPOINT_URL"):
        open_volume("s3://nowhere/a.zarr")
    with pytest.raises(VolumeNotFoundError, match="there is no zarr store"):
        open_volume(f"s3://{BUCKET}/none.zarr")


def test_shards_behind_a_server_without_ranges_are_refused_with_the_reason(web: Web) -> None:
    embryo(web.folder / "a.zarr")
    web.ranges = False
    volume = open_volume(f"{web.url}/a.zarr")
    with pytest.raises(
        UnreachableError, match="does not support range requests, which sharded images"
    ):
        volume.read(Box((0, 0, 0), (8, 8, 8)))


def test_a_place_in_a_bucket_that_may_not_be_written_is_a_mistake_of_the_user(
    run: RemoteFolder, faults: Faults
) -> None:
    faults.every, faults.status = 1, "403 Forbidden"
    with pytest.raises(PlaceError, match="access denied"):
        run.check_writable()
    faults.status = "503 Service Unavailable"
    with pytest.raises(OutputError, match="no proper response") as busy:
        replace(run, retries=QUICK).check_writable()
    assert not isinstance(busy.value, UsageError)


def test_another_process_opens_the_bucket_itself(run: RemoteFolder) -> None:
    run.write("a", b"1")
    code = "import pickle, sys; f = pickle.load(sys.stdin.buffer); f.write('b', f.read('a') + b'2')"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(run), check=True)
    assert run.read("b") == b"12"
    assert b"topsecret" not in pickle.dumps(run)


def test_a_forked_process_says_that_it_cannot_use_the_connection(run: RemoteFolder) -> None:
    run.write("a", b"1")
    code = (
        "import os, sys, pickle\n"
        "f = pickle.load(sys.stdin.buffer); f.read('a'); child = os.fork()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "try: f.read('a')\n"
        "except RuntimeError as error: os._exit(3 if 'spawn' in str(error) else 4)\n"
        "os._exit(5)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(run), timeout=20)
    assert done.returncode == 3


# Volumes --------------------------------------------------------------------------------------


def embryo(place: Path, version: str = "0.5") -> NDArray[np.uint16]:
    """Write an image of two levels and many chunks."""
    voxels = np.random.default_rng(3).integers(0, 999, (40, 300, 70), dtype=np.uint16)
    write_image(place, voxels, "zyx", (2.0, 0.5, 0.5), version, chunks=(16, 64, 32))
    return voxels


def upload(place: Path, url: str) -> None:
    folder = folder_at(url)
    for file in place.rglob("*"):
        if file.is_file():
            folder.write(file.relative_to(place).as_posix(), file.read_bytes())


def whole(volume: Volume) -> NDArray[Any]:
    return volume.read(Box.whole(volume.spatial_shape))


@BOTH
def test_an_image_behind_a_web_server_is_read_though_it_fails_now_and_then(
    web: Web, version: str
) -> None:
    voxels = embryo(web.folder / "an embryo.ome.zarr", version)
    web.every = 5
    volume = open_volume(f"{web.url}/an embryo.ome.zarr?signature=secret")
    assert np.array_equal(whole(volume), voxels)
    assert volume.voxel_size == (2.0, 0.5, 0.5)
    assert np.array_equal(whole(pickle.loads(pickle.dumps(volume))), voxels)
    assert volume.describe()["path"] == f"{web.url}/an embryo.ome.zarr"
    assert [level.shape for level in volume.levels] == [(40, 300, 70), (40, 150, 35)]


def test_a_web_server_that_goes_away_is_one_clear_line(web: Web) -> None:
    embryo(web.folder / "a.zarr")
    volume = open_volume(f"{web.url}/a.zarr?signature=secret")
    web.every = 1
    with pytest.raises(UnreachableError, match=r"a.zarr/0/.*: no proper response .503") as down:
        whole(volume)
    web.hangs = True
    with pytest.raises(UnreachableError, match=r"no proper response .timed out") as hung:
        whole(volume)
    with pytest.raises(UnreachableError, match=r"a.zarr/.*: no proper response"):
        open_volume(f"{web.url}/a.zarr")
    for error in (down, hung):
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)


def test_what_is_not_behind_a_web_server_is_said_without_listing(web: Web) -> None:
    with pytest.raises(VolumeNotFoundError, match=r"none.zarr: there is no zarr store"):
        open_volume(f"{web.url}/none.zarr?signature=secret")
    zarr.create_group(str(web.folder / "group.zarr"))
    with pytest.raises(MetadataError, match="not an OME-Zarr image: no multiscales; it holds"):
        open_volume(f"{web.url}/group.zarr")


def test_an_image_in_a_bucket_is_read_in_any_process(faults: Faults, tmp_path: Path) -> None:
    voxels = embryo(tmp_path / "a.zarr")
    upload(tmp_path / "a.zarr", f"s3://{BUCKET}/2026/a.zarr")
    faults.every = 5
    volume = open_volume(f"s3://{BUCKET}/2026/a.zarr")
    assert np.array_equal(whole(volume), voxels)
    code = "import pickle, sys; print(int(pickle.load(sys.stdin.buffer).data.sum().compute()))"
    stdin = pickle.dumps(volume)
    done = subprocess.run(
        [sys.executable, "-c", code], input=stdin, capture_output=True, check=True
    )
    assert int(done.stdout) == voxels.sum()
    assert b"topsecret" not in stdin


@pytest.mark.parametrize("size", [0, 10, 50_000])
def test_a_truncated_shard_in_a_bucket_is_named(faults: Faults, tmp_path: Path, size: int) -> None:
    embryo(tmp_path / "a.zarr")
    upload(tmp_path / "a.zarr", f"s3://{BUCKET}/a.zarr")
    folder = folder_at(f"s3://{BUCKET}/a.zarr/0")
    folder.write("c/0/1/0", folder.read("c/0/1/0")[:size])
    with pytest.raises(CorruptChunkError, match=r"s3://embryos/a.zarr/0/c/0/1/0: ") as error:
        whole(open_volume(f"s3://{BUCKET}/a.zarr"))
    assert "\n" not in str(error.value)
    assert faults.requests


# Labels ---------------------------------------------------------------------------------------

IMAGE = f"s3://{BUCKET}/2026/embryo.ome.zarr"
SHAPE = (40, 300, 70)


@pytest.fixture
def version() -> str:
    """NGFF version of the image; tests marked with `BOTH` get each in turn."""
    return "0.5"


@pytest.fixture
def image(faults: Faults, tmp_path: Path, version: str) -> Volume:  # noqa: ARG001
    """An image of two levels in a bucket."""
    write_image(tmp_path / "up", np.ones(SHAPE, np.uint8), "zyx", (2.0, 0.5, 0.5), version)
    upload(tmp_path / "up", IMAGE)
    return open_volume(IMAGE)


def labels_like(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 100_000, shape, dtype=np.uint32)


def fill(pending: PendingLabels, seed: int) -> NDArray[np.uint32]:
    labels = labels_like(pending.target.levels[0].shape, seed)
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level == 0:
                pending.write(level, box, labels[box.slices])
            else:
                pending.downsample(level, box)
    return labels


def write_labels(target: LabelTarget, seed: int = 0) -> NDArray[np.uint32]:
    pending = target.create(np.uint32, run=f"run {seed}")
    labels = fill(pending, seed)
    pending.publish({"seed": seed, "token": "0"}, write_instances(pending, seed))
    return labels


def write_instances(pending: PendingLabels, seed: int) -> InstanceTable:
    table = pending.instances(3, ["seediness"])
    table.create()
    table.write(0, {"seediness": np.array([0.25, 0.5, seed], np.float32)})
    return table


def write_foreign(volume: Volume, name: str) -> NDArray[np.uint32]:
    """Labels as another tool leaves them: with plain names of arrays, and without our mark."""
    labels = write_labels(label_target(volume, name), seed=9)
    folder = folder_at(f"{IMAGE}/labels/{name}")
    assert isinstance(folder, RemoteFolder)
    run = next(c for c in folder.children() if c.startswith("0-"))[1:-1]
    for at in [at for at in folder.names() if "/" in at]:
        folder.write(at.replace(run, "", 1), folder.read(at))
        folder.remove(at)
    document = "zarr.json" if folder.exists("zarr.json") else ".zattrs"
    text = folder.read(document).decode().replace(run, "").replace("embedseg_large", "painted")
    folder.write(document, text.encode())
    return labels


def stored(name: str, level: int = 0) -> NDArray[Any]:
    return whole(open_volume(f"{IMAGE}/labels/{name}", level=level))


def names_listed() -> list[str]:
    folder = folder_at(f"{IMAGE}/labels")
    document = "zarr.json" if folder.exists("zarr.json") else ".zattrs"
    content = json.loads(folder.read(document))
    content = content.get("attributes", {}).get("ome", content)
    return list(content["labels"])


def objects(name: str) -> list[str]:
    """The first part of the names of all objects of some labels."""
    return sorted({at.partition("/")[0] for at in folder_at(f"{IMAGE}/labels/{name}").names()})


@pytest.fixture
def check_valid(check_ngff: CheckNGFF) -> CheckStore:
    """Let validators look at a copy of a store: at its image, and at every label group."""

    def check(store: str, version: str, place: Path) -> None:
        for name in folder_at(store).names():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(folder_at(store).read(name))
        check_ngff(place, version)

    return check


@NEW
def test_an_image_in_a_bucket_gets_labels_though_the_store_fails_now_and_then(
    image: Volume, version: str, faults: Faults, tmp_path: Path, check_valid: CheckStore
) -> None:
    faults.every = 9
    target = label_target(image, "nuclei")
    assert (target.path, target.in_image) == (f"{IMAGE}/labels/nuclei", True)
    labels = write_labels(target)
    assert np.array_equal(stored("nuclei"), labels)
    assert np.array_equal(stored("nuclei", level=1), labels[:, ::2, ::2])
    assert names_listed() == ["nuclei"]
    opened = open_volume(target.path)
    assert (opened.is_labels, opened.voxel_size) == (True, (2.0, 0.5, 0.5))
    check_valid(IMAGE, version, tmp_path / "copy")


@NEW
def test_another_store_in_a_bucket_is_made_for_labels(
    faults: Faults, version: str, tmp_path: Path, check_valid: CheckStore
) -> None:
    out = f"s3://{BUCKET}/new/out.zarr"
    volume = open_volume(np.zeros((8, 300)), voxel_size=(1.0, 1.0))
    target = label_target(volume, "nuclei", output=f"{out}/", ngff_version=version)
    assert not list(folder_at(out).names())
    labels = write_labels(target)
    assert np.array_equal(whole(open_volume(f"{out}/labels/nuclei")), labels)
    check_valid(out, version, tmp_path / "copy")
    above = [at for at in folder_at(f"s3://{BUCKET}").names() if not at.startswith("new/out.zarr/")]
    assert above == []
    folder_at(f"s3://{BUCKET}/thesis").write("chapter1.txt", b"")
    with pytest.raises(UsageError, match="not a zarr group; choose another output"):
        label_target(volume, "nuclei", output=f"s3://{BUCKET}/thesis")
    assert faults.requests


def test_labels_in_a_bucket_are_invisible_until_they_are_published(image: Volume) -> None:
    pending = label_target(image, "nuclei").create(np.uint32)
    labels = fill(pickle.loads(pickle.dumps(pending)), 1)
    with pytest.raises(VolumeNotFoundError):
        open_volume(f"{IMAGE}/labels/nuclei")
    assert not folder_at(f"{IMAGE}/labels").exists("zarr.json")
    label_target(image, "nuclei")  # finds nothing in the way
    pending.publish({})
    assert np.array_equal(stored("nuclei"), labels)
    assert ".run" not in objects("nuclei")
    with pytest.raises(LabelsExistError, match="overwrite"):
        label_target(image, "nuclei")


def test_what_is_above_a_store_need_not_be_readable(image: Volume, faults: Faults) -> None:
    target = label_target(image, "nuclei")
    faults.denied = f"/{BUCKET}/2026/zarr.json"
    labels = write_labels(target)
    assert np.array_equal(stored("nuclei"), labels)
    assert names_listed() == ["nuclei"]
    assert f"GET {faults.denied}" in faults.requests


def test_a_run_in_a_bucket_goes_on_and_another_one_begins_anew(image: Volume) -> None:
    target = label_target(image, "nuclei")
    first = target.create(np.uint32, run="a")
    box = next(first.regions(0))
    first.write(0, box, labels_like(box.shape))
    again = target.create(np.uint32, run="a")
    assert np.array_equal(again.read(0, box), labels_like(box.shape))
    other = target.create(np.uint32, run="b")
    assert not other.read(0, box).any()
    assert len([at for at in objects("nuclei") if at.startswith("0-")]) == 1
    with pytest.raises(RunError, match="another run is now writing these labels"):
        first.publish({})
    labels = fill(other, 2)
    other.publish({})
    with pytest.raises(OutputError, match="No array found"):  # by a worker that was cut off
        first.write(0, box, labels_like(box.shape, 5))
    assert np.array_equal(stored("nuclei"), labels)


def test_a_discarded_run_leaves_the_bucket_as_it_was(image: Volume) -> None:
    before = list(folder_at(IMAGE).names())
    pending = label_target(image, "nuclei").create(np.uint32)
    fill(pending, 1)
    write_instances(pending, 1)
    pending.discard()
    assert list(folder_at(IMAGE).names()) == before
    pending.discard()


def test_runs_that_publish_at_once_in_a_bucket_are_all_listed(image: Volume, version: str) -> None:
    names = [f"run{number}" for number in range(5)]
    pending = [label_target(image, name).create(np.uint8) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda labels: labels.publish({}), pending))
    assert sorted(names_listed()) == names
    assert all(open_volume(f"{IMAGE}/labels/{name}").ngff_version == version for name in names)


@BOTH
def test_older_labels_in_a_bucket_stay_until_the_new_ones_are_whole(
    image: Volume,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    check_valid: CheckStore,
) -> None:
    before = write_labels(label_target(image, "nuclei"), seed=1)
    pending = label_target(image, "nuclei", overwrite=True).create(np.uint32, run="x")
    labels = fill(pending, 2)
    assert np.array_equal(stored("nuclei"), before)
    with monkeypatch.context() as patch:
        patch.setattr(ZarrGroup, "update", fail)
        with pytest.raises(OutputError, match="broken"):
            pending.publish({})
    assert np.array_equal(stored("nuclei"), before)
    pending.publish({})
    assert np.array_equal(stored("nuclei"), labels)
    assert len([at for at in objects("nuclei") if at.startswith("0-")]) == 1
    check_valid(IMAGE, version, tmp_path / "copy")


def test_discarding_new_labels_keeps_the_older_ones(image: Volume) -> None:
    before, objects_before = write_labels(label_target(image, "nuclei"), seed=1), objects("nuclei")
    label_target(image, "nuclei", overwrite=True).create(np.uint32).discard()
    assert np.array_equal(stored("nuclei"), before)
    assert objects("nuclei") == objects_before


@BOTH
def test_labels_of_others_in_a_bucket_are_kept_as_a_copy(
    image: Volume,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    check_valid: CheckStore,
) -> None:
    theirs = write_foreign(image, "nuclei")
    assert np.array_equal(stored("nuclei"), theirs)
    pending = label_target(image, "nuclei", overwrite=True).create(np.uint32, run="x")
    labels = fill(pending, 2)
    with monkeypatch.context() as patch:  # killed after the copy
        patch.setattr(ZarrGroup, "update", fail)
        with pytest.raises(OutputError, match="broken"):
            pending.publish({})
    assert np.array_equal(stored("nuclei"), theirs)
    pending.publish({})
    assert np.array_equal(stored("nuclei"), labels)
    assert np.array_equal(stored("nuclei.bak"), theirs)
    assert names_listed() == ["nuclei", "nuclei.bak"]
    assert objects("nuclei.bak").count("instances") == 1
    check_valid(IMAGE, version, tmp_path / "copy")


@BOTH
def test_a_publication_in_a_bucket_that_was_killed_is_finished_by_the_same_run(
    image: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = label_target(image, "nuclei").create(np.uint32, run="x")
    labels = fill(pending, 1)
    with monkeypatch.context() as patch:
        patch.setattr(BucketLabels, "_list", fail)
        with pytest.raises(OutputError, match="broken"):
            pending.publish({})
    again = label_target(image, "nuclei").create(np.uint32, run="x")
    again.publish({})
    assert np.array_equal(stored("nuclei"), labels)
    assert names_listed() == ["nuclei"]


@BOTH
@pytest.mark.parametrize("at", ["", "labels"])
def test_consolidated_metadata_in_a_bucket_do_not_hide_new_labels(
    image: Volume, version: str, at: str, tmp_path: Path
) -> None:
    write_labels(label_target(image, "first"), seed=1)
    here, there = tmp_path / "up" / at, folder_at(f"{IMAGE}/{at}".rstrip("/"))
    for name in folder_at(IMAGE).names():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(folder_at(IMAGE).read(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 has no word for consolidated metadata yet
        zarr.consolidate_metadata(str(here), zarr_format=2 if version == "0.4" else 3)
    document = ".zmetadata" if version == "0.4" else "zarr.json"
    there.write(document, (here / document).read_bytes())
    labels = write_labels(label_target(image, "second"), seed=2)
    write_labels(label_target(image, "first", overwrite=True), seed=3)
    for name in folder_at(IMAGE).names():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(folder_at(IMAGE).read(name))
    root: Any = zarr.open_group(str(tmp_path / "down" / at), mode="r", use_consolidated=True)
    group = root if at else root["labels"]
    assert sorted(group.group_keys()) == ["first", "second"]
    made = group["first"].attrs["embedseg_large"]
    assert made["seed"] == 3
    told = group["first"][f"{made['instances']['path']}/seediness"]
    assert told[:].tolist() == [0.25, 0.5, 3]
    assert sorted(names_listed()) == sorted(_listed(group)) == ["first", "second"]
    (finest,) = (array for name, array in group["second"].arrays() if name.startswith("0"))
    assert np.array_equal(finest[:], labels)
    assert len(list(group["first"].arrays())) == 2


def _listed(group: Any) -> list[str]:
    attributes = dict(group.attrs)
    return list(attributes.get("ome", attributes)["labels"])


def fail(*_: Any, **__: Any) -> NoReturn:
    raise OutputError("broken")
