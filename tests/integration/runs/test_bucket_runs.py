"""Whole runs whose image, labels, journal and scratch files are in a bucket or behind https."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import OutputError, UnreachableError, UsageError
from embedseg_large.runs.dask import preflight
from embedseg_large.runs.dask.preflight import SharedPlace
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.paths import lock_folder, predictions_path, scratch_path
from embedseg_large.segmentation.status import RunStatus, run_status
from embedseg_large.storage.open import folder_at
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.tiers import slowly

if TYPE_CHECKING:
    from tests.integration.conftest import Faults, Web

pytest.importorskip("obstore")

Labels = NDArray[Any]
VICTIM = Path(__file__).parents[1] / "victim.py"
STAGES = ["predict", "cluster", "check", "finish"]
BUCKET = "s3://embryos"
PREFIX = "2026/embryo.ome.zarr/"
IMAGE = f"{BUCKET}/{PREFIX}".rstrip("/")
LIST = f"{PREFIX}labels/zarr.json"


@pytest.fixture(scope="module")
def network(victim: ModuleType) -> OracleNetwork:
    made: OracleNetwork = victim.network(victim.embryo())
    return made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, victim: ModuleType) -> Path:
    """The image on a disk."""
    place = tmp_path_factory.mktemp("disk") / "embryo.ome.zarr"
    write_image(place, victim.embryo(), "zyx", (1.0, 1.0, 1.0))
    return place


@pytest.fixture(scope="module")
def undisturbed(victim: ModuleType, network: Any, local: Path) -> Labels:
    """Its labels, of a run on that disk."""
    result = segment(victim, network, local)
    assert result.seams.rounds > 0
    return voxels(result)


@pytest.fixture
def before(faults: Faults, local: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all objects of the bucket before a run: those of the image."""
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "30")
    monkeypatch.setenv("EMBEDSEG_SILENCE_SECONDS", "10")
    for file in (f for f in local.rglob("*") if f.is_file()):
        name = file.relative_to(local).as_posix()
        if not name.startswith("labels/"):
            folder_at(IMAGE).write(name, file.read_bytes())
    faults.requests.clear()
    return objects()


def objects() -> set[str]:
    return set(folder_at(BUCKET).names())


def segment(victim: ModuleType, network: Any, image: Any, **more: Any) -> es.SegmentResult:
    return es.segment(image, network, **(victim.OPTIONS | {"intensity_range": (0, 1)} | more))


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def came(before: set[str]) -> set[str]:
    """What is in the bucket that was not; of whole labels only the name."""
    whole = rf"{re.escape(PREFIX)}labels/(\w+)/(zarr\.json|(?:\d|instances)-[0-9a-f]{{8}}/.*)"
    return {re.sub(f"^{whole}$", r"\1", name) for name in objects() - before}


@pytest.mark.parametrize("workers", [None, *slowly(2)], ids=["serial", "workers"])
def test_labels_in_a_bucket_are_those_on_a_disk_and_nothing_else_is_left(
    workers: int | None,
    victim: ModuleType,
    network: Any,
    before: set[str],
    undisturbed: Labels,
) -> None:
    result = segment(victim, network, IMAGE, workers=workers)
    assert result.path == f"{IMAGE}/labels/nuclei"
    assert np.array_equal(voxels(result), undisturbed)
    assert came(before) == {"nuclei", LIST}
    about = json.loads(command("info", f"{IMAGE}/", "--json"))
    assert about["labels"] == ["nuclei"]
    assert json.loads(command("info", result.path, "--json"))["n_instances"] == result.n_instances
    table = es.measure(IMAGE, labels="nuclei")
    assert np.count_nonzero(table["certified"]) == result.seams.certified
    assert table["seediness"].min() > 0.5
    (score,) = es.evaluate(result.path, undisturbed, thresholds=[0.5])
    assert score.f1 == 1
    with pytest.raises(UsageError, match=f"is an image; pass its labels: {IMAGE}/labels/NAME"):
        es.evaluate(IMAGE, undisturbed)


def test_a_run_asks_a_bucket_once_a_tile_and_reader(
    victim: ModuleType, network: Any, before: set[str], faults: Faults
) -> None:
    assert before
    result = segment(victim, network, IMAGE)
    asked = requests(faults)
    tasks = {name: clock["tiles"] for name, clock in result.summary["stages"].items()}
    assert asked["PUT predictions"] <= tasks["predict"]
    assert asked["PUT views"] == tasks["cluster"]
    assert asked["GET predictions"] <= 27 * tasks["cluster"]
    accounted = (asked["PUT layers"] + 1) * result.seams.tiles  # the last one is for FINISH
    assert asked["GET views"] <= 4 * tasks["check"] + accounted


def requests(faults: Faults) -> Counter[str]:
    """Number of requests of each kind for scratch files: "GET views"."""
    asked: Counter[str] = Counter()
    for request in faults.requests:
        method, _, key = request.partition(" ")
        place = key.partition("-nuclei.run/")[2].partition("/")[0]
        asked[f"{method} {place}"] += 1
    return asked


@pytest.mark.slow  # on a disk: test_resume.py
@pytest.mark.parametrize("stage", ["predict", "cluster", "check", "finish"])
def test_a_killed_client_loses_only_tiles_in_flight(
    stage: str, victim: ModuleType, network: Any, before: set[str], undisturbed: Labels
) -> None:
    died = subprocess.run([sys.executable, VICTIM, IMAGE, stage, "dies", "own"], check=False)
    assert died.returncode == -signal.SIGKILL
    assert objects() > before
    assert json.loads(command("info", IMAGE, "--json"))["labels"] == []
    result = segment(victim, network, IMAGE)
    assert np.array_equal(voxels(result), undisturbed)
    assert came(before) == {"nuclei", LIST}
    resumed = result.summary["resumed"]
    assert all(resumed.get(s, 0) > 0 for s in STAGES[: STAGES.index(stage)])


@pytest.mark.slow
def test_an_image_that_changed_in_its_bucket_is_refused(
    victim: ModuleType, network: Any, before: set[str], undisturbed: Labels
) -> None:
    died = subprocess.run([sys.executable, VICTIM, IMAGE, "cluster", "dies", "own"], check=False)
    assert died.returncode == -signal.SIGKILL
    chunk = next(name for name in sorted(before) if "/0/c/" in name)
    folder_at(BUCKET).write(chunk, folder_at(BUCKET).read(chunk) + b"\0")
    with pytest.raises(UsageError, match=r"volume files .* \(now .*overwrite"):
        segment(victim, network, IMAGE)
    folder_at(BUCKET).write(chunk, folder_at(BUCKET).read(chunk)[:-1])
    result = segment(victim, network, IMAGE)  # the same bytes have the same entity tag
    assert np.array_equal(voxels(result), undisturbed)
    assert result.summary["resumed"]["predict"] > 0


@pytest.mark.parametrize(
    ("status", "late"),
    [
        ("503 Service Unavailable", False),
        pytest.param("500 Internal Server Error", True, marks=pytest.mark.slow),
    ],
)
def test_a_run_does_not_mind_a_store_that_fails_now_and_then(
    status: str,
    late: bool,
    victim: ModuleType,
    network: Any,
    before: set[str],
    faults: Faults,
    undisturbed: Labels,
) -> None:
    faults.every, faults.status, faults.late = 15, status, late
    result = segment(victim, network, IMAGE)
    faults.every = 0
    assert np.array_equal(voxels(result), undisturbed)
    assert came(before) == {"nuclei", LIST}


@dataclass
class Doing:
    """A watcher that does something when a stage has done a task."""

    stage: str
    action: Callable[[], None]

    def begin(self, stage: str, tiles: int) -> None: ...

    def advance(self, stage: str) -> None:
        if stage == self.stage:
            self.action()


@pytest.mark.parametrize("stage", ["check", *slowly("predict")])
def test_a_store_that_goes_away_is_one_line_and_the_run_goes_on_later(
    stage: str,
    victim: ModuleType,
    network: Any,
    before: set[str],
    faults: Faults,
    undisturbed: Labels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedseg_large.runs.run_folder.Lock", partial(Lock, beat=0.2))
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "0.5")
    going = Doing(stage, lambda: setattr(faults, "every", 1))
    with pytest.raises((UnreachableError, OutputError), match=r"no proper response .503") as error:
        segment(victim, network, IMAGE, watcher=going)
    assert "\n" not in str(error.value)
    faults.every = 0
    assert np.array_equal(voxels(segment(victim, network, IMAGE)), undisturbed)
    assert came(before) == {"nuclei", LIST}


@pytest.mark.slow
def test_of_two_runs_on_one_output_the_second_is_refused_and_status_knows_the_first(
    victim: ModuleType, network: Any, before: set[str], undisturbed: Labels
) -> None:
    first = subprocess.Popen([sys.executable, VICTIM, IMAGE, "cluster", "sleeps", "own"])
    try:
        wait_for(lambda: any("/journal/" in name for name in objects()))
        with pytest.raises(UsageError, match=f"another run .*process {first.pid}"):
            segment(victim, network, IMAGE)
        about = json.loads(command("status", f"{IMAGE}/", "--json"))
        assert about["running"]["pid"] == first.pid
    finally:
        first.kill()
        first.wait()
    stopped = run_status(IMAGE)
    assert isinstance(stopped, RunStatus)
    assert stopped.folder == scratch_path(None, IMAGE, "nuclei")
    assert stopped.holder is None
    assert stopped.stages["predict"][0] > 0
    assert "rerun the same command to resume" in command("status", stopped.folder)
    assert np.array_equal(voxels(segment(victim, network, IMAGE)), undisturbed)
    assert came(before) == {"nuclei", LIST}


def wait_for(found: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
def test_kept_predictions_in_a_bucket_are_clustered_again(
    victim: ModuleType, network: Any, before: set[str], undisturbed: Labels
) -> None:
    first = segment(victim, network, IMAGE, keep_predictions=True)
    kept = predictions_path(None, IMAGE, "nuclei")
    assert first.summary["predictions"] == kept
    again = segment(victim, network, IMAGE, labels="again", from_predictions=kept)
    assert "predict" not in again.summary["stages"]
    assert np.array_equal(voxels(again), undisturbed)
    folder_at(kept).remove_all()
    assert came(before) == {"nuclei", "again", LIST}


def test_scratch_files_may_be_on_a_disk(
    tmp_path: Path,
    victim: ModuleType,
    network: Any,
    before: set[str],
    faults: Faults,
    undisturbed: Labels,
) -> None:
    result = segment(victim, network, IMAGE, scratch=tmp_path)
    assert np.array_equal(voxels(result), undisturbed)
    assert not any("nuclei.run" in request for request in faults.requests)
    assert came(before) == {"nuclei", LIST}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_array_in_memory_reaches_workers_through_the_bucket(
    victim: ModuleType, network: Any, before: set[str], undisturbed: Labels
) -> None:
    out = f"{BUCKET}/out.ome.zarr"
    result = segment(victim, network, victim.embryo(), output=out, workers=2)
    assert np.array_equal(voxels(result), undisturbed)
    assert {name.partition("/")[0] for name in objects() - before} == {"out.ome.zarr"}


def test_an_image_behind_https_is_segmented_onto_a_disk_and_its_signature_kept_secret(
    web: Web,
    victim: ModuleType,
    network: Any,
    undisturbed: Labels,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "30")
    monkeypatch.setenv("EMBEDSEG_SILENCE_SECONDS", "10")
    caplog.set_level("DEBUG", "embedseg_large")
    write_image(web.folder / "embryo.ome.zarr", victim.embryo(), "zyx", (1.0, 1.0, 1.0))
    web.every = 15
    url, out = f"{web.url}/embryo.ome.zarr?signature=secret", web.folder / "out.zarr"
    with pytest.raises(OutputError, match="web servers are read only") as refused:
        segment(victim, network, url)
    result = segment(victim, network, url, output=out, workers=2)
    assert np.array_equal(voxels(result), undisturbed)
    written = b"".join(file.read_bytes() for file in out.rglob("*.json"))
    for text in (str(refused.value), caplog.text, written.decode(), json.dumps(result.summary)):
        assert "secret" not in text


def voxels(result: es.SegmentResult) -> Labels:
    return np.asarray(result.labels.compute(scheduler="threads"))


# Before a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scratch": "s3://nowhere/scratch"}, "s3://nowhere/.*: there is no such bucket"),
        ({"scratch": "https://host/scratch"}, "https://host/.*: web servers are read only"),
        ({"output": "s3://nowhere/out.zarr"}, "s3://nowhere/.*: there is no such bucket"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_a_voxel_is_read(
    options: dict[str, str],
    said: str,
    victim: ModuleType,
    network: Any,
    before: set[str],
    faults: Faults,
) -> None:
    with pytest.raises((OutputError, UnreachableError), match=said):
        segment(victim, network, IMAGE, **options)
    assert not any("/0/c/" in request for request in faults.requests)
    assert objects() == before


def test_workers_that_lack_the_credentials_are_told_so_within_seconds(
    client: Any, victim: ModuleType, network: Any, before: set[str]
) -> None:
    client.run(_forget)  # they were started before the environment knew the server
    with pytest.raises(UsageError, match=r"embryos/.* on 2 of 2 workers.*environment"):
        segment(victim, network, IMAGE, client=client)
    assert objects() == before


def _forget() -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"


def test_a_bucket_of_the_same_name_elsewhere_is_another_place(before: set[str]) -> None:
    unseen = SharedPlace(BUCKET, f"{BUCKET}/.seen-by-workers-1", write=True)
    assert preflight.fault_of(unseen) == preflight.OTHER_STORE
    folder_at(BUCKET).write(".seen-by-workers-1", b"")
    assert preflight.fault_of(unseen) is None
    folder_at(BUCKET).remove(".seen-by-workers-1")
    assert objects() == before


@pytest.mark.parametrize(
    ("store", "run", "lock"),
    [
        ("s3://b/x.zarr", "s3://b/.x.zarr-n.run", "s3://b/.x.zarr-n.lock"),
        ("s3://b/a/x.zarr", "s3://b/a/.x.zarr-n.run", "s3://b/a/.x.zarr-n.lock"),
        ("s3://b", "s3://b/.n.run", "s3://b/.n.lock"),  # nothing is beside a whole bucket
    ],
)
def test_a_run_keeps_its_files_beside_the_store_in_its_bucket(
    store: str, run: str, lock: str
) -> None:
    assert scratch_path(None, store, "n") == run
    assert lock_folder(store, "n").path == lock
    assert predictions_path("s3://c/d/", store, "n").startswith("s3://c/d/")
