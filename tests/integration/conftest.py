"""A Dask cluster of two worker processes, shared by the tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest

from embedseg_large.engine.clusterfile import LocalSettings
from embedseg_large.engine.clusters import cluster_client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster_client(LocalSettings(workers=2), "cpu") as client:
        yield client
