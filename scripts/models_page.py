"""Write docs/models.md from the cards of the bundled models: ``python scripts/models_page.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embedseg_large as es
from embedseg_large.models import bundled_models

PAGE = Path(__file__).parents[1] / "docs" / "models.md"

HEAD = """# Bundled models

Trained by this package ([scripts/train_bundled.py](../scripts/train_bundled.py) and
[train_cycle.py](../scripts/train_cycle.py)), scored by
[scripts/score_models.py](../scripts/score_models.py): whole images, AP = TP / (TP + FP + FN) at
each IoU, pooled over all objects. No image that is scored was trained on; those that chose the
weights and the thresholds are named in *split*. The weights are licensed like the package,
BSD 3-Clause. [Which model for my image?](guides/which_model.md) This page
is made from the cards in the models (`embedseg-large info NAME`).
"""

FIELDS = ("summary", "limits", "data", "data_licence", "split")


def section(name: str) -> str:
    """One model: its card and its scores."""
    model = es.load_model(name)
    lines = [f"## {name}", ""]
    lines += [f"- **{field.replace('_', ' ')}**: {model.card[field]}" for field in FIELDS]
    lines += [
        f"- **objects**: about {model.object_diameter:.0f} voxels along y and x"
        + (f", {model.object_depth:.0f} along z" if model.object_depth else "")
        + f"; context {model.context[0]}",
        f"- **thresholds**: {thresholds(model)}",
        "",
        *table(model.card["scores"]),
        "",
        f"*How it was trained.* {model.card['recipe']}",
    ]
    return "\n".join(lines)


def thresholds(model: es.Model) -> str:
    """Seed and margin of one pass, and of augmentations that have their own."""
    own = {each.mode: f"TTA {each.mode}" for each in model.settings.thresholds}
    said = (
        (words, model.settings.thresholds_of(m))
        for m, words in ({"none": "one pass"} | own).items()
    )
    return "; ".join(f"{words} seed {at.seed:g}, margin {at.margin:g}" for words, at in said)


def table(scores: list[dict[str, Any]]) -> list[str]:
    """The scores as Markdown."""
    levels = list(scores[0]["ap"])
    head = ["images", "TTA", "true", "found", *(f"AP {level}" for level in levels)]
    rows = [
        [s["data"], s["tta"], s["true"], s["found"], *(f"{s['ap'][level]:.3f}" for level in levels)]
        for s in scores
    ]
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def main() -> None:
    """Write the page."""
    PAGE.write_text("\n".join([HEAD, *(section(name) + "\n" for name in bundled_models())]))


if __name__ == "__main__":
    main()
