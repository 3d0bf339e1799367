"""Put a trained model into the package: float16, with a card for people.

::

    python scripts/bundle_model.py runs/nuclei-3d.safetensors scripts/nuclei-3d.card.json \
        --scores runs/nuclei-3d.scores.json

What the training knows (settings, sizes of the data) is kept in the card below ``training``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import embedseg_large as es
from embedseg_large.network.model import Model

MODELS = Path(es.__file__).parent / "models"


def main() -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="what training wrote")
    parser.add_argument("card", type=Path, help="JSON object for people; it has the name")
    parser.add_argument("--scores", type=Path, help="what score_models.py wrote")
    options = parser.parse_args()
    model = es.load_model(options.model)
    card = json.loads(options.card.read_text())
    if options.scores:
        card["scores"] = json.loads(options.scores.read_text())
    bundled = Model(model.weights, model.settings, card=card | {"training": model.card})
    bundled.save(MODELS / f"{card['name']}.safetensors", dtype="float16")


if __name__ == "__main__":
    main()
