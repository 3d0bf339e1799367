"""Which files of a folder form one image, and in which order.

A pattern marks the position along an axis in file names::

    t{t}_c{c}_z{z:04d}.tif       t1_c0_z0017.tif is timepoint 1, channel 0, plane 17

``{z}`` is a number of any length, ``{z:04d}`` one of at least four digits; ``{c}`` may be a word.
Numbers need not start at 0, but none may be missing between the first and the last.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product, zip_longest
from math import prod
from pathlib import Path

from embedseg_large.errors import UsageError

AXES = "tcz"
"""Axes along which files can be stacked."""
SUFFIXES = (".tif", ".tiff")
"""Suffixes of files, in upper or lower case, that are stacked without a pattern."""

_FIELD = re.compile(r"\{([^{}:]*)(?::0?(\d*)d?)?\}")
_SHOWN = 3
_FEW = 4
"""Names from which a gap between their numbers can be recognised."""

logger = logging.getLogger(__name__)

Value = int | str
"""Position along an axis as written in a name."""


@dataclass(frozen=True, slots=True)
class FileGrid:
    """Files that form one image; raster order over `axes`."""

    folder: str
    """Absolute path of the folder that contains them, at any depth."""
    axes: str
    """Letters of t, c and z along which files are stacked."""
    counts: tuple[int, ...]
    """Number of files along each of these axes."""
    names: tuple[str, ...]
    """Paths relative to the folder."""
    channels: tuple[str, ...] | None = None
    """Names of the channels, if file names have words for them."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Absolute paths."""
        return tuple(self.path(number) for number in range(len(self.names)))

    def path(self, number: int) -> str:
        """Absolute path of one file."""
        return f"{self.folder}/{self.names[number]}"


@dataclass(frozen=True, slots=True)
class FilePattern:
    """A file name with fields for positions along axes; may have folders."""

    text: str

    def __post_init__(self) -> None:
        letters = [letter for letter, _ in _FIELD.findall(self.text)]
        if not letters:
            raise UsageError(f"pattern {self.text!r} has no field; put {{z}} where planes differ")
        for letter in letters:
            if len(letter) != 1 or letter not in AXES:
                raise UsageError(
                    f"pattern {self.text!r}: {{{letter}}} is none of {{t}}, {{c}}, {{z}}"
                )

    @property
    def axes(self) -> str:
        """Letters of the fields, in the order in which they come first."""
        return "".join(dict.fromkeys(letter for letter, _ in _FIELD.findall(self.text)))

    def find(self, folder: Path) -> dict[str, dict[str, str]]:
        """Find files, and the values of their fields."""
        wild = _FIELD.sub("*", glob.escape(self.text))
        matcher = re.compile("".join(self._expression()))
        found = {}
        for path in sorted(folder.glob(wild)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and (match := matcher.fullmatch(name)):
                found[name] = match.groupdict()
        return found

    def name(self, values: Mapping[str, Value]) -> str:
        """Return the file name at some position, according to the pattern."""

        def fill(field: re.Match[str]) -> str:
            return str(values[field[1]]).zfill(int(field[2] or 0))

        return _FIELD.sub(fill, self.text)

    def _expression(self) -> Iterator[str]:
        """Translate the pattern to parts of a regular expression."""
        end, seen = 0, set()
        for field in _FIELD.finditer(self.text):
            yield re.escape(self.text[end : field.start()])
            letter, width = field[1], int(field[2] or 1)
            word = letter == "c" and not field[2]
            value = r"[^/]+?" if word else rf"\d{{{width},}}"
            yield f"(?P={letter})" if letter in seen else f"(?P<{letter}>{value})"
            seen.add(letter)
            end = field.end()
        yield re.escape(self.text[end:])


def split_pattern(path: str) -> tuple[str, str] | None:
    """Split ``FOLDER/plane_{z}.tif`` into its folder and pattern; None if it has no field."""
    field = _FIELD.search(path)
    if field is None:
        return None
    cut = path.rfind("/", 0, field.start())
    return path[:cut] or "/" if cut >= 0 else ".", path[cut + 1 :]


def files_of_pattern(folder: str | Path, pattern: str) -> FileGrid:
    """Find the files of a folder that match a pattern.

    Raises
    ------
    UsageError
        If the pattern is unusable, there are no such files, one is missing, or two have the same
        position.
    """
    wanted, root = FilePattern(pattern), Path(folder).absolute()
    found = wanted.find(root)
    if not found:
        raise UsageError(f"{root}: no file matches {pattern!r}{_like(root)}")
    axes = {axis: _values([fields[axis] for fields in found.values()]) for axis in wanted.axes}
    placed = _placed(found, {axis: dict(values) for axis, values in axes.items()}, root)
    order = {axis: sorted_values(set(values.values())) for axis, values in axes.items()}
    names = list(_raster(placed, order, wanted, root))
    words = order.get("c", [])
    return FileGrid(
        folder=str(root),
        axes=wanted.axes,
        counts=tuple(len(order[axis]) for axis in wanted.axes),
        names=tuple(names),
        channels=tuple(map(str, words)) if words and isinstance(words[0], str) else None,
    )


def files_in_order(folder: str | Path, axis: str) -> FileGrid:
    """Return all TIFFs of a folder in natural order: plane 10 comes after plane 9.

    Raises
    ------
    UsageError
        If there are none, or files cannot be stacked along that axis.
    """
    from tifffile import natural_sorted

    if len(axis) != 1 or axis not in AXES:
        raise UsageError(f"files cannot be stacked along axis {axis!r}; use t, c or z")
    root = Path(folder).absolute()
    names = natural_sorted(tiffs_in(root))
    if not names:
        raise UsageError(f"{root}: no files with suffix {', '.join(SUFFIXES)}")
    gap = _gap(names)
    if gap is not None:
        logger.warning(
            "%s: a file seems to be missing between %s and %s; what follows moves up", root, *gap
        )
    return FileGrid(str(root), axis, (len(names),), tuple(names))


def _gap(names: Sequence[str]) -> tuple[str, str] | None:
    """Find the first two neighbours whose numbers are not consecutive, if all others' are.

    Names must differ in one number. A series with larger steps throughout has no gap.
    """
    parts = [re.split(r"(\d+)", name) for name in names]
    differing = {
        i for i, texts in enumerate(zip_longest(*parts, fillvalue="")) if len(set(texts)) > 1
    }
    if len(differing) != 1 or len(names) < _FEW:
        return None
    (at,) = differing
    if not all(part[at].isdecimal() for part in parts):
        return None
    steps = [int(b[at]) - int(a[at]) for a, b in pairwise(parts)]
    usual = min(steps)
    wide = [i for i, step in enumerate(steps) if step != usual]
    if not wide or 2 * len(wide) > len(steps):
        return None
    return names[wide[0]], names[wide[0] + 1]


def tiffs_in(folder: Path) -> list[str]:
    """Names of the TIFFs in a folder, except hidden ones."""
    names = (path.name for path in folder.iterdir() if path.is_file())
    return [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]


def sorted_values(values: set[Value]) -> Sequence[Value]:
    """Order positions: numbers from the first to the last without a gap, or words.

    Never as a list of all numbers, which may be times in nanoseconds.
    """
    if all(isinstance(value, int) for value in values):
        numbers = [value for value in values if isinstance(value, int)]
        return range(min(numbers), max(numbers) + 1)
    from tifffile import natural_sorted

    return list(natural_sorted(map(str, values)))


def _values(texts: Sequence[str]) -> dict[str, Value]:
    """Read the values of one field: numbers, if all are, or else words."""
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    return {text: text for text in texts}


def _placed(
    found: Mapping[str, Mapping[str, str]], axes: Mapping[str, Mapping[str, Value]], root: Path
) -> dict[tuple[Value, ...], str]:
    """Find the file of each position."""
    placed: dict[tuple[Value, ...], str] = {}
    for name, fields in found.items():
        at = tuple(axes[axis][fields[axis]] for axis in axes)
        if at in placed:
            raise UsageError(f"{root}: {placed[at]} and {name} have the same position; keep one")
        placed[at] = name
    return placed


def _raster(
    placed: Mapping[tuple[Value, ...], str],
    order: Mapping[str, Sequence[Value]],
    pattern: FilePattern,
    root: Path,
) -> Iterator[str]:
    """Return the files in raster order; none may be missing."""
    total = prod(len(values) for values in order.values())
    if total > len(placed):
        some = [values[: len(placed) + _SHOWN] for values in order.values()]  # one is missing there
        missing = (at for at in product(*some) if at not in placed)
        names = [pattern.name(dict(zip(order, at, strict=True))) for at in islice(missing, _SHOWN)]
        spans = ", ".join(f"{a} from {v[0]} to {v[-1]}" for a, v in order.items())
        only = f", or use all files in natural order with --stack {pattern.axes}"
        raise UsageError(
            f"{root}: {total - len(placed):,} of {total:,} files missing ({spans}), such as "
            f"{', '.join(names)}; add them{only if len(order) == 1 else ''}"
        )
    return (placed[at] for at in product(*order.values()))


def _like(folder: Path) -> str:
    """Name an existing file, for a message."""
    names = tiffs_in(folder) if folder.is_dir() else []
    return f"; there is {min(names)}" if names else ""
