"""Turn a checkpoint of the original EmbedSeg program into a bundled model.

Run it from the repository::

    python scripts/bundle_original_checkpoint.py CHECKPOINT_FOLDER CARD.json \
        embedseg_large/models/nuclei-3d.safetensors --extent 36,38,32

What the folder does not say (the largest extents of the annotated objects, the voxel size) comes
from the options; what people should know comes from the card, a JSON object. Convolution kernels
are stored as float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="weights and data_properties.json")
    parser.add_argument("card", type=Path, help="JSON object for the model card")
    parser.add_argument("out", type=Path, help="the model file to write")
    parser.add_argument("--extent", type=_integers, help="largest object extents, voxels, Z,Y,X")
    parser.add_argument("--tile", type=_integers, help="core of a prediction tile, voxels, Z,Y,X")
    parser.add_argument("--context", type=_integers, help="voxels around a core, Z,Y,X")
    parser.add_argument("--voxel-size", type=_numbers, help="of the training images, µm, Z,Y,X")
    options = parser.parse_args(arguments)
    model = load_model(options.folder)
    settings = with_overrides(
        model.settings, options.extent, options.tile, options.context, options.voxel_size
    )
    card = json.loads(options.card.read_text())
    bundled = Model(model.weights, settings, card=card)
    bundled.save(options.out, dtype="float16")


def with_overrides(
    settings: ModelSettings,
    extent: tuple[int, ...] | None,
    tile: tuple[int, ...] | None,
    context: tuple[int, ...] | None,
    voxel_size: tuple[float, ...] | None,
) -> ModelSettings:
    """Return the settings with what the folder could not say; halo and reach follow the extent."""
    return ModelSettings.from_objects(
        channels=settings.channels,
        pitch=settings.pitch,
        extent=extent or settings.extent,
        tile=tile or settings.tile,
        context=context or settings.context,
        min_object_size=settings.min_object_size,
        object_diameter=settings.object_diameter,
        voxel_size=voxel_size or settings.voxel_size,
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
