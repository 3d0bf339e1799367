"""The napari panel says what the engine says with the names of its own fields.

The messages come from the engine itself, so that a new wording there is noticed here.
"""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedseg_large.errors import IntensityError, OutputError
from embedseg_large.napari.wording import in_words_of_panel
from embedseg_large.runs.runner import failure
from embedseg_large.runs.tasks import Call, Failed, Task
from embedseg_large.segmentation.report import SizeScale
from embedseg_large.segmentation.request.scale import voxel_size_warning
from embedseg_large.storage.disk import output_errors
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import intensity_range
from embedseg_large.volumes.volume import open_volume


def test_objects_of_another_size_are_for_the_box_that_finds_the_scale() -> None:
    scale = SizeScale(
        level=0, is_automatic=False, model_diameter=40.0, found_diameter=15.0, stated=None
    )
    assert scale.warning is not None
    assert in_words_of_panel(scale.warning).endswith(
        "check whether they are pieces or clumps; find the scale compares scales on a sample"
    )


def test_voxels_of_another_size_are_for_the_box_that_finds_the_scale() -> None:
    shape = (16, 16)
    image = open_volume(np.ones(shape, np.uint16), axes="yx", voxel_size=(0.1, 0.1))
    network: Any = SimpleNamespace(voxel_size=(0.5, 0.5))
    warning = voxel_size_warning(image, network, Resampling(shape, shape))
    assert warning is not None
    said = in_words_of_panel(warning)
    assert said.endswith("of the same size; find the scale compares scales on a sample")


def test_a_constant_image_is_called_by_the_name_of_its_layer() -> None:
    with pytest.raises(IntensityError) as caught:
        intensity_range(open_volume(np.ones((16, 16), np.uint16), axes="yx"))
    said = in_words_of_panel(str(caught.value), r"embryo \1")
    assert said.startswith(r"embryo \1: the image is constant")
    assert said.endswith("check the channel")


@pytest.mark.parametrize("is_all", [True, False])
def test_what_failed_on_the_way_is_to_be_tried_again(is_all: bool) -> None:
    task = Task(stage="statistics", make=lambda: Call(len, ()))
    failed = Failed(IntensityError("the array: voxel (5, 6, 7) is nan; replace it"))
    said = in_words_of_panel(str(failure([(task, failed)], noted=True, is_all=is_all)), "embryo")
    assert said == "statistics: embryo: voxel (5, 6, 7) is nan; replace it; then try again"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_no_option_or_command_is_named_where_temporary_files_do_not_fit(code: int) -> None:
    with pytest.raises(OutputError) as caught, output_errors("/tmp"):
        raise OSError(code, "no")
    said = in_words_of_panel(str(caught.value))
    assert "--" not in said
    assert "command" not in said


def test_other_messages_stay_but_for_line_ends() -> None:
    message = "the region is too large;\nrun `embedseg-large segment` on the file"
    assert in_words_of_panel(message) == message.replace("\n", " ")
