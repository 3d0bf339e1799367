"""A header may declare any size: a file takes no more memory than it deserves."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

EDGE = 227_000
"""Pixels of 16 bits that take 96 GiB."""
MOST = 300
"""MiB beyond an undamaged file of the same kind."""

CHILD = """
import json, resource, sys
from typer.testing import CliRunner
from embedseg_large.cli.app import app
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
small, out, *files = sys.argv[1:]
def run(file):
    commands = ["info", file], ["convert", file, out, "--overwrite"], ["measure", file]
    return [CliRunner().invoke(app, words).exit_code for words in commands]
run(small)
before = peak()
codes = [run(file) for file in files]
print(json.dumps([peak() - before, codes]))
"""


def png(path: Path, edge: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", edge, edge, 16, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def tiff(path: Path, edge: int, *tags: str, compression: str | None, tile: bool = False) -> Path:
    square = np.arange(256, dtype=np.uint16).reshape(16, 16)
    tiles: Any = {"tile": (16, 16)} if tile else {}
    tifffile.imwrite(path, square, compression=compression, metadata=None, **tiles)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", *tags):
            file.pages.first.tags[tag].overwrite(edge, dtype="I")
    return path


@pytest.mark.slow
def test_headers_that_ask_for_96_gib_are_refused_without_taking_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.ones((16, 16), np.uint16))
    files = [
        tiff(tmp_path / "raw.tif", EDGE, "RowsPerStrip", compression=None),
        tiff(tmp_path / "strips.tif", EDGE, "RowsPerStrip", compression="zlib"),
        tiff(
            tmp_path / "tiles.tif",
            EDGE // 16 * 16,
            "TileWidth",
            "TileLength",
            compression="zlib",
            tile=True,
        ),
        tiff(
            tmp_path / "2GiB.tif", 32_000, "TileWidth", "TileLength", compression="zlib", tile=True
        ),
        png(tmp_path / "image.png", EDGE),
        png(tmp_path / "2GiB.png", 32_000),
    ]
    command: Any = [
        sys.executable,
        "-c",
        CHILD,
        tmp_path / "small.tif",
        tmp_path / "out.zarr",
        *files,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, codes = json.loads(ran.stdout)
    assert all(code[1:] == [2, 2] for code in codes), codes
    assert grown < MOST
