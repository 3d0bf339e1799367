"""Before a run it is clear that every worker can do it, and if not, what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from embedseg_large.errors import OutputError, UsageError
from embedseg_large.runs.dask import preflight
from embedseg_large.runs.dask.preflight import WorkerReport, check_workers, own_report


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def other_workers(monkeypatch: pytest.MonkeyPatch, *reports: WorkerReport | Exception) -> None:
    """Let the workers give these answers, whatever they are."""
    answers = {f"tcp://10.0.0.{n}:1": report for n, report in enumerate(reports)}

    async def run(*_: Any, **__: Any) -> Mapping[str, Any]:
        return answers

    monkeypatch.setattr(Client, "run", run)


def with_version(name: str, version: str | None) -> WorkerReport:
    own = own_report()
    return replace(own, host="node7", versions={**own.versions, name: version})


def check(client: Client, *places: Path | str, **options: Any) -> None:
    settings = {"device": "cpu", "needs_gpu": False, **options}
    check_workers(client, places=[str(place) for place in places], **settings)


def test_workers_that_see_all_places_pass_and_no_file_is_left(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "image.tif").touch()
    check(client, tmp_path, tmp_path / "new" / "store.zarr", inputs=[str(tmp_path / "image.tif")])
    assert [file.name for file in tmp_path.iterdir()] == ["image.tif"]


def test_workers_answer_while_they_compute(client: Client, tmp_path: Path) -> None:
    busy = [client.submit(time.sleep, 1.5, pure=False) for _ in range(4)]
    check(client, tmp_path)
    assert not any(future.done() for future in busy[2:])
    client.gather(busy)


def test_an_input_that_workers_do_not_see_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SEEN_SECONDS", 0)
    with pytest.raises(
        UsageError, match=r"gone\.zarr does not exist.* on 2 of 2 workers: .*inproc"
    ):
        check(client, inputs=[str(tmp_path / "gone.zarr")])


def test_a_folder_of_the_same_name_on_another_disk_is_not_the_same_folder(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_disk(file: Any, _: int) -> bool:
        return "seen-by-workers" not in str(file)

    monkeypatch.setattr(preflight, "SEEN_SECONDS", 0)
    monkeypatch.setattr("os.access", another_disk)
    with pytest.raises(UsageError, match=r"a different folder.*drive that all workers share"):
        check(client, tmp_path)


def test_a_folder_that_workers_may_only_read_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_can_write", lambda _: False)
    with pytest.raises(UsageError, match=f"{tmp_path} cannot be written on 2 of 2 workers"):
        check(client, tmp_path)


def test_a_drive_that_does_not_answer_is_named_and_does_not_hang(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(preflight, "_can_write", lambda _: time.sleep(1))
    with pytest.raises(UsageError, match="does not answer on 2 of 2 workers"):
        check(client, tmp_path)


def test_a_url_that_workers_cannot_reach_is_named_without_its_credentials(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "0.1")
    with pytest.raises(UsageError, match=r"nowhere.* cannot be reached .* on 2 of 2 w") as caught:
        check(client, inputs=["https://me:secret@127.0.0.1:9/nowhere.zarr"])
    assert "secret" not in str(caught.value)


def test_a_folder_that_the_client_cannot_write_is_an_error_of_its_own(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match="read-only"):
        check(client, tmp_path)


@pytest.mark.parametrize("name", ["python", *preflight.PACKAGES])
def test_another_version_is_named_with_its_worker(
    client: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = own_report().versions[name]
    assert ours is not None
    other_workers(monkeypatch, own_report(), with_version(name, "0.1.9"))
    with pytest.raises(UsageError) as caught:
        check(client)
    message = str(caught.value)
    assert f"{name} is {ours} here and 0.1.9 on node7 (tcp://10.0.0.1:1)" in message
    assert "\n" not in message


def test_a_package_that_a_worker_lacks_is_missing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_workers(monkeypatch, with_version("numba", None))
    with pytest.raises(UsageError, match="and missing on node7"):
        check(client)


def test_workers_with_different_builds_of_torch_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = str(own_report().versions["torch"]).split("+")[0]
    builds = [with_version("torch", f"{release}+{build}") for build in ("cu124", "cu126")]
    other_workers(monkeypatch, *builds)
    with pytest.raises(UsageError, match=r"builds of torch.*cu124 on node7.*cu126 on node7"):
        check(client)
    other_workers(monkeypatch, builds[0], builds[0])
    check(client)


def test_many_workers_are_counted_and_a_few_named(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_workers(monkeypatch, *[with_version("zarr", "2.0")] * 500)
    with pytest.raises(UsageError, match="and 497 more") as caught:
        check(client)
    assert len(str(caught.value)) < 300


def test_a_worker_without_this_package_is_told_to_install_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Dask makes of a function that a worker cannot import.
    answer = Exception("""ModuleNotFoundError("No module named 'embedseg_large'")""")
    other_workers(monkeypatch, answer)
    with pytest.raises(UsageError, match=r"worker tcp.*No module named.*install embedseg-large"):
        check(client)


def test_workers_that_leave_while_they_are_asked_do_not_matter(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_workers(monkeypatch, own_report(), OSError("connection closed"))
    check(client)
    other_workers(monkeypatch, OSError("connection closed"))
    with pytest.raises(UsageError, match="no workers"):
        check(client)


def test_cuda_needs_a_worker_that_offers_a_gpu(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="none of 2 workers offers the resource GPU"):
        check(client, device="cuda", needs_gpu=True)
    check(client, device="cuda", needs_gpu=False)
    other_workers(monkeypatch, own_report(), replace(own_report(), gpus=1))
    check(client, device="cuda", needs_gpu=True)
