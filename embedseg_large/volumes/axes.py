"""Names and units of array axes: one letter per axis, in the order t, c, z, y, x."""

from __future__ import annotations

from collections.abc import Sequence

from embedseg_large.errors import MetadataError, UsageError

CANONICAL = "tczyx"
SPATIAL = "zyx"
OTHER = "_"  # an axis other than t, c, z, y, x

# Names of NGFF (UDUNITS-2) and the symbols that OME-XML and ImageJ write, in lower case.
_MICROMETERS = {
    **dict.fromkeys(("angstrom", "ångström", "å"), 1e-4),
    **dict.fromkeys(("picometer", "picometre", "pm"), 1e-6),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um"), 1.0),
    **dict.fromkeys(("µm", "\u03bcm"), 1.0),  # the micro sign and the Greek letter
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("decimeter", "decimetre", "dm"), 1e5),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
    **dict.fromkeys(("inch", "inches", "in"), 25400.0),
}


def letter(name: object, kind: object = None) -> str:
    """Return the letter of an axis.

    Parameters
    ----------
    name
        Its name, such as "z".
    kind
        Its NGFF type, if known: "time" and "channel" take precedence over the name.
    """
    typed = {"time": "t", "channel": "c"}.get(str(kind))
    lower = str(name).lower()
    return typed or (lower if len(lower) == 1 and lower in CANONICAL else OTHER)


def micrometers(unit: str | None) -> float | None:
    """Number of micrometres in a length unit.

    Parameters
    ----------
    unit
        A unit as NGFF ("micrometer"), OME-XML ("µm") or ImageJ ("micron") write it.

    Returns
    -------
    float or None
        None if the unit is missing, not a length ("pixel") or unknown.
    """
    return None if unit is None else _MICROMETERS.get(unit.strip().lower())


def voxel_size_um(
    axes: str, scale: Sequence[float] | None, units: Sequence[str | None]
) -> tuple[float, ...] | None:
    """Return the voxel size in µm along the spatial axes, in the order z, y, x.

    A scale without units says nothing about micrometres (many writers put 1 there), so the size
    is known only if *every* spatial axis has a length unit.

    Parameters
    ----------
    axes
        Letters of the stored axes.
    scale, units
        One number and one unit for each stored axis.
    """
    if scale is None:
        return None
    factors = {a: micrometers(unit) for a, unit in zip(axes, units, strict=True)}
    steps = dict(zip(axes, scale, strict=True))
    # a flipped axis has a negative step
    sizes = [None if (f := factors[a]) is None else abs(steps[a]) * f for a in SPATIAL if a in axes]
    return None if None in sizes else tuple(float(size) for size in sizes if size is not None)


def parse_axes(axes: str, shape: Sequence[int]) -> str:
    """Check the axes of an array as stated by a user.

    Raises
    ------
    UsageError
        If a letter is not one of t, c, z, y, x, comes twice, or the number of axes is wrong.
    """
    letters = axes.replace(",", "").lower()
    if len(letters) != len(shape):
        raise UsageError(
            f"axes {axes!r} name {len(letters)} axes, the array has {len(shape)} {tuple(shape)}; "
            "pass one letter of t, c, z, y, x for each (axes of length 1 may have been left out)"
        )
    if set(letters) - set(CANONICAL) or len(set(letters)) < len(letters):
        raise UsageError(f"axes {axes!r} are not letters of t, c, z, y, x, each at most once")
    return letters


def check_axes(axes: str, shape: Sequence[int], where: str) -> str:
    """Check that an array's axes can be used: y and x, and nothing unknown longer than 1.

    Raises
    ------
    MetadataError
        If the axes do not match the shape, y or x is missing, or an axis other than t, c, z, y, x
        has more than one element.
    """
    if len(axes) != len(shape):
        raise MetadataError(
            f"{where}: axes {axes!r} do not match the array's shape {tuple(shape)}; pass those "
            "that do (--axes)"
        )
    if not {"y", "x"} <= set(axes):
        raise MetadataError(f"{where}: axes {axes!r} lack y or x; pass axes= (--axes)")
    for axis, letter in enumerate(axes):
        if letter == OTHER and shape[axis] > 1:
            raise MetadataError(
                f"{where}: axis {axis} of shape {tuple(shape)} is none of t, c, z, y, x; "
                "pass the axes, such as axes='zyx' (--axes zyx)"
            )
    if 0 in shape:
        raise MetadataError(f"{where}: the array is empty, its shape is {tuple(shape)}")
    return axes


def default_axes(ndim: int, where: str) -> str:
    """Return the axes of an array without names: y, x or z, y, x.

    Raises
    ------
    UsageError
        If the array has another number of axes, whose meaning is unknown.
    """
    if ndim in (2, 3):
        return SPATIAL[-ndim:]
    raise UsageError(f"{where}: an array of {ndim} axes needs axes=, such as axes='czyx'")
