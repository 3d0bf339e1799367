"""The facts of ``embedseg-large info --system``: for bug reports, and before a large run."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from embedseg_large.cli.console import print_facts, print_table
from embedseg_large.cli.units import readable_bytes
from embedseg_large.extras import install

PACKAGES = ("numpy", "numba", "zarr", "dask", "distributed")
"""Packages whose versions are shown, apart from torch."""

_DEVELOPMENT = {"dev", "docs"}
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*extra == ['\"](?P<extra>[\w.-]+)['\"]")


def system_facts() -> dict[str, Any]:
    """Describe this machine and what is installed, as values that JSON can hold."""
    import psutil  # a dependency of distributed

    from embedseg_large.network.system import torch_facts

    memory, missing = psutil.virtual_memory(), _missing()
    return {
        "embedseg-large": version("embedseg-large"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "memory": memory.total,
        "free_memory": memory.available,
        **torch_facts(),
        "extras": {name: not absent for name, absent in missing.items()},
        "missing": {name: absent for name, absent in missing.items() if absent},
    }


def print_system(facts: dict[str, Any]) -> None:
    """Print the result of `system_facts`."""
    packages = facts["packages"] | {"torch": facts["torch"]}
    print_facts(
        f"embedseg-large {facts['embedseg-large']}",
        {
            "python": f"{facts['python']}, {facts['platform']}",
            "packages": ", ".join(f"{name} {number}" for name, number in packages.items()),
            "cores": facts["cores"],
            "memory": f"{readable_bytes(facts['memory'])}, "
            f"{readable_bytes(facts['free_memory'])} of it free",
            "a run would use": f"{facts['device']}, {facts['dtype']}",
            "extras": ", ".join(name for name, there in facts["extras"].items() if there) or "none",
            **{f"no {name}": _advice(name, absent) for name, absent in facts["missing"].items()},
        },
    )
    if facts["devices"]:
        rows = [
            [d["device"], d["name"], readable_bytes(d["memory"]), readable_bytes(d["free_memory"])]
            for d in facts["devices"]
        ]
        print_table(["device", "name", "memory", "free"], rows)


def _advice(extra: str, missing: list[str]) -> str:
    return f"{install(extra)} ({', '.join(missing)})"


def _missing() -> dict[str, list[str]]:
    """Packages of each extra that are not installed."""
    extras: dict[str, list[str]] = {
        name: [] for name in metadata("embedseg-large").get_all("Provides-Extra") or ()
    }
    for extra, package in _optional():
        if _version(package) is None:
            extras[extra].append(package)
    return {name: extras[name] for name in sorted(extras) if name not in _DEVELOPMENT}


def _optional() -> Iterator[tuple[str, str]]:
    """Each extra and a package that it requires."""
    for requirement in requires("embedseg-large") or ():
        if found := _REQUIREMENT.match(requirement):
            yield found["extra"], found["name"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
