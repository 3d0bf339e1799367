"""Constants that stand twice, because their rooms do not import each other, are the same."""

from embedseg_large import pictures
from embedseg_large.network import settings
from embedseg_large.network.exchange import portable
from embedseg_large.tiling import axis
from embedseg_large.volumes import intensity


def test_tiles_begin_on_the_strides_of_the_network() -> None:
    assert axis.STRIDE == settings.STRIDE


def test_exports_and_pictures_have_the_percentiles_of_a_run() -> None:
    assert portable.PERCENTILES == intensity.PERCENTILES
    assert pictures._PERCENTILES == intensity.PERCENTILES
