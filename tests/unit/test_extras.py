"""A missing optional package is one line with the command that installs it."""

import sys

import pytest

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra, install


@pytest.mark.parametrize(
    ("module", "package"),
    [("skimage", "scikit-image"), ("sklearn.ensemble", "scikit-learn"), ("dask_cuda", "dask-cuda")],
)
def test_the_package_is_named_as_it_is_installed(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as raised, extra("review", "splitting"):
        __import__(module)
    assert str(raised.value) == f'splitting needs {package}; pip install "embedseg-large[review]"'


def test_what_can_be_done_without_it_ends_the_line() -> None:
    with (
        pytest.raises(UsageError, match=r'\[tables\]", or write \.csv$'),
        extra("tables", "Parquet", instead="write .csv"),
    ):
        raise ImportError("a library that is damaged names nothing")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), extra("track", "GEFF"):
        raise KeyError("name")


def test_an_extra_is_one_of_the_package() -> None:
    """Every extra that a message names exists."""
    from importlib.metadata import metadata
    from pathlib import Path
    from re import findall

    there = metadata("embedseg-large").get_all("Provides-Extra") or ()
    source = Path(sys.modules[extra.__module__].__file__ or "").parent
    named = {
        name
        for path in source.rglob("*.py")
        for name in findall(r"""\b(?:extra|install)\(["']([a-z0-9]+)["']""", path.read_text())
    }
    assert {"track", "s3", "export", "cuda"} <= named <= set(there)
    assert install("s3") == 'pip install "embedseg-large[s3]"'
