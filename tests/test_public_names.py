"""The public interface is what the design says, documented, and cheap to import."""

import inspect
import subprocess
import sys

import embedseg_large as es

HEAVY = ("torch", "zarr", "dask", "distributed", "numba", "matplotlib", "scipy", "ome_zarr_models")


def test_public_names_are_sorted_and_there() -> None:
    assert es.__all__ == sorted(es.__all__)
    for name in es.__all__:
        assert getattr(es, name) is not None
    assert set(es.__all__) <= set(dir(es))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(es, "segmented")


def test_every_public_name_is_documented() -> None:
    for name in es.__all__:
        thing = getattr(es, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            assert "Parameters" in (inspect.getdoc(thing) or ""), name


def imported_by(code: str) -> set[str]:
    report = f"{code}\nimport sys; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not imported_by("import embedseg_large") & set(HEAVY)


def test_the_help_imports_nothing_heavy() -> None:
    assert not imported_by("import embedseg_large.cli.app") & set(HEAVY)
