"""Put a trained model into the package: float16, with a card for people.

::

    python scripts/bundle_model.py runs/nuclei-3d.safetensors scripts/nuclei-3d.card.json \
        --scores runs/nuclei-3d.scores.json

What the training knows (settings, sizes of the data) is kept in the card below ``training``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import embedseg_large as es
from embedseg_large.network.model import Model

MODELS = Path(es.__file__).parent / "models"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="what training wrote")
    parser.add_argument("card", type=Path, help="JSON object for people; it has the name")
    parser.add_argument("--scores", type=Path, help="what score_models.py wrote")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder to write it to")
    parser.add_argument("--seed", type=float, help="threshold of seediness, if not the model's")
    parser.add_argument("--context", type=int, help="context of a tile, if not the model's")
    options = parser.parse_args(arguments)
    model = es.load_model(options.model)
    settings = model.settings
    if options.seed:
        settings = replace(settings, seed=options.seed)
    if options.context:
        settings = replace(settings, context=(options.context,) * model.ndim)
    card = json.loads(options.card.read_text())
    if options.scores:
        card["scores"] = json.loads(options.scores.read_text())
    bundled = Model(model.weights, settings, card=card | {"training": model.card})
    bundled.save(options.models / f"{card['name']}.safetensors", dtype="float16")


if __name__ == "__main__":
    main()
