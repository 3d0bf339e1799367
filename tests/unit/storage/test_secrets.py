"""Passwords and signatures of URLs are repeated nowhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from embedseg_large.errors import OutputError, UnreachableError, UsageError, cause, foreign
from embedseg_large.runs.dask import clusters
from embedseg_large.runs.dask.cluster_file import SchedulerSettings, read_cluster_file
from embedseg_large.runs.log_file import scrubbed

SECRET = "geheim"
URLS = (
    f"tcp://user:{SECRET}@10.0.0.1:8786",
    f"s3://key:{SECRET}@bucket/image.ome.zarr",
    f"https://user:p@{SECRET}@host:9000/image.ome.zarr",
    f"https://host/image.ome.zarr?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"az://container/x#{SECRET}",
)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", [UsageError, UnreachableError, OutputError])
def test_no_error_of_ours_repeats_them_whoever_wrote_its_message(
    url: str, kind: type[Exception]
) -> None:
    error = kind(f"{url}: cannot be opened; see {url}, or '{url}'")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert SECRET not in f"{one} {one!r} {one.args}"
        assert "cannot be opened" in str(one)


@pytest.mark.parametrize("url", URLS)
def test_what_another_library_says_is_shown_without_them(url: str) -> None:
    with pytest.raises(UsageError) as caught, foreign(url, "cannot be read", kind=UsageError):
        raise RuntimeError(f"HTTP error at ({url})")
    assert SECRET not in str(caught.value)
    assert SECRET not in cause(ValueError(url))
    assert SECRET not in str(scrubbed({"traceback": f'File "{url}"', "facts": [url]}))


def test_the_server_is_still_named() -> None:
    assert str(UsageError(f"no answer at {URLS[0]} within 10 s")) == (
        "no answer at tcp://10.0.0.1:8786 within 10 s"
    )


@pytest.mark.parametrize("raised", [ValueError, OSError])
def test_a_scheduler_that_cannot_be_reached(
    raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(address: str, **_: Any) -> None:
        raise raised(f"no {address}")

    monkeypatch.setattr(clusters, "Client", client)
    settings = SchedulerSettings(file="cluster.yaml", address=URLS[0])
    with pytest.raises(UsageError, match=r"10\.0\.0\.1:8786") as caught:
        clusters.cluster_client(settings, "cpu").__enter__()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        "kind: scheduler\naddress: tcp://u:geheim@h:1: x",
        "kind: scheduler\n tcp://u:geheim@h:1",
        "{kind: local, workers: tcp://u:geheim@h:1}",
        "{kind: scheduler, addres: tcp://u:geheim@h:1}",
        "kind: tcp://u:geheim@h:1",
        "[tcp://u:geheim@h:1]",
    ],
)
def test_a_cluster_file_that_is_wrong(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"cluster\.yaml") as caught:
        read_cluster_file(file)
    assert SECRET not in str(caught.value)


def test_values_that_travel_to_workers_show_no_url_with_them() -> None:
    pytest.importorskip("obstore")
    import numpy as np

    from embedseg_large.labels.instances import KnownInstances
    from embedseg_large.storage.bucket import RemoteFolder
    from embedseg_large.storage.connection import Address, Retries
    from embedseg_large.storage.retrying_store import PatientStore
    from embedseg_large.volumes.stored_array import StoredArray
    from embedseg_large.volumes.volume import open_volume

    for url in URLS[2:4]:
        address = Address.of(url)
        volume = open_volume(np.zeros((4, 4), np.uint8))
        stored = StoredArray(opener=lambda: None, location="here", shape=(1,), dtype=np.dtype("u1"))
        object.__setattr__(volume, "path", url)
        object.__setattr__(stored, "opener", url)
        found = (
            *(address, RemoteFolder.at(url), PatientStore(address, Retries())),
            *(volume, stored, KnownInstances(url, {})),
        )
        for one in found:
            assert SECRET not in f"{one} {one!r}", type(one)


def test_errors_travel_from_workers_whatever_they_are_pickled_with() -> None:
    from distributed.protocol.pickle import dumps, loads

    for kind in (UsageError, UnreachableError, OutputError):
        found = loads(dumps(kind(f"no {URLS[0]}")))
        assert (type(found), str(found)) == (kind, "no tcp://10.0.0.1:8786")
