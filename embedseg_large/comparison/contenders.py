"""The participating methods: the named ones, or all that can take part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from embedseg_large.clustering.classical import check_installed
from embedseg_large.comparison.classical import ClassicalContender
from embedseg_large.comparison.contender import Contender
from embedseg_large.comparison.forest import ForestContender
from embedseg_large.comparison.networks import NetworkContender
from embedseg_large.comparison.options import ALL, CompareOptions
from embedseg_large.errors import UsageError
from embedseg_large.methods.registry import NAMES, check_usable
from embedseg_large.network.device import checked_device
from embedseg_large.network.forest import FOREST
from embedseg_large.segmentation.request.classical import CLASSICAL
from embedseg_large.training.data.properties import check_crop
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.objective import check_overlaps
from embedseg_large.training.settings import TrainSettings

EVERY = (*NAMES, FOREST, CLASSICAL)
"""All methods, in the order in which they are compared."""


def choose(
    options: CompareOptions, pairs: Sequence[Pair]
) -> tuple[list[Contender], dict[str, str]]:
    """Choose the methods.

    Parameters
    ----------
    options
        Names of methods, and how networks learn.
    pairs
        The annotated images.

    Returns
    -------
    contenders, skipped
        If all methods are compared, those that cannot take part are skipped; `skipped` maps names
        to reasons.

    Raises
    ------
    UsageError
        If a named method does not exist or cannot take part, or networks cannot learn in this way.
    """
    names = _names(options.methods)
    _check_learning(options, pairs)
    found: list[Contender] = []
    skipped: dict[str, str] = {}
    for name in names:
        try:
            found.append(_MAKERS.get(name, _network)(name, options, pairs))
        except UsageError as error:
            if options.methods != ALL:
                raise
            skipped[name] = str(error)
    if not found:
        raise UsageError(f"no method can take part: {next(iter(skipped.values()))}")
    return found, skipped


def _names(methods: Sequence[str] | str) -> list[str]:
    """Return the names without repetition."""
    if methods == ALL:
        return list(EVERY)
    listed = methods.split(",") if isinstance(methods, str) else methods
    names = list(dict.fromkeys(name.strip() for name in listed))
    for name in names:
        if name not in EVERY:
            raise UsageError(f"method is {name!r}; use {', '.join(EVERY)}, or all")
    return names


def _check_learning(options: CompareOptions, pairs: Sequence[Pair]) -> None:
    """Refuse what no network can use, before it is recorded as a fact of the comparison."""
    TrainSettings(
        backbone=options.backbone,
        batch=options.batch,
        learning_rate=options.learning_rate,
        threads=options.threads,
    )
    if options.crop is not None:
        check_crop(options.crop, pairs[0].ndim)
    if options.device is not None:
        checked_device(options.device)


def _network(name: str, options: CompareOptions, pairs: Sequence[Pair]) -> Contender:
    check_overlaps(TrainSettings(method=name), pairs)
    return NetworkContender(name=name, options=options)


def _classical(name: str, options: CompareOptions, pairs: Sequence[Pair]) -> Contender:  # noqa: ARG001
    check_installed()
    _check_one_channel(name, pairs)
    return ClassicalContender()


def _forest(name: str, options: CompareOptions, pairs: Sequence[Pair]) -> Contender:  # noqa: ARG001
    check_usable(name)
    check_overlaps(TrainSettings(method=name), pairs)
    return ForestContender()


def _check_one_channel(name: str, pairs: Sequence[Pair]) -> None:
    if pairs[0].channels != 1:
        raise UsageError(
            f"the method {name} takes one channel, the images have {pairs[0].channels}; "
            "choose one, or leave the method out"
        )


_MAKERS: dict[str, Callable[[str, CompareOptions, Sequence[Pair]], Contender]] = {
    CLASSICAL: _classical,
    FOREST: _forest,
}
"""Contenders of methods without a network."""
