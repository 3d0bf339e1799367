"""A Dask cluster of two worker processes, shared by the tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest

from embedseg_large.engine.run import local_client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with local_client(2) as client:
        yield client
