"""The README of an exported model: Markdown, from its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embedseg_large.network.exchange.portable import PERCENTILES, PortableModel

CITATION = (
    "Lalit M, Tomancak P, Jug F (2021). Embedding-based Instance Segmentation in Microscopy. "
    "Proceedings of Machine Learning Research 143: 399-415."
)
DOI = "10.48550/arXiv.2101.10033"

_TOLD = {
    "data": "Data",
    "split": "Split",
    "recipe": "Recipe",
    "origin": "Origin",
    "limits": "Limits",
    "data_licence": "Licence of the data",
}
"""Text entries of a card, and their headings here."""


def page_of(
    model: PortableModel, *, title: str, model_file: str, licence: str | None, sample_source: str
) -> str:
    """Return the page.

    Parameters
    ----------
    model
        The model.
    title
        First line.
    model_file
        Name of our model file in the package.
    licence
        Licence of the weights, if known.
    sample_source
        Source and licence of the test image.
    """
    parts = [
        f"# {title}",
        str(model.card.get("summary", "An EmbedSeg model for instance segmentation.")),
        _use(model, model_file),
        _channels(model),
        _training(model.card),
        _validation(model.card),
        "## Licence and source",
        f"Weights: {licence or model.card.get('licence', 'not stated')}. "
        f"Test image: {sample_source}.",
        f"Cite: {CITATION} https://doi.org/{DOI}",
    ]
    return "\n\n".join(parts) + "\n"


def _use(model: PortableModel, model_file: str) -> str:
    low, high = (f"{p:g}" for p in PERCENTILES)
    context = ", ".join(map(str, model.settings.context))
    return f"""## Use

This package holds the *network*. To get instances, its output channels must be clustered, which
no program of bioimage.io does: use embedseg-large with the model file in this package.

```sh
pip install embedseg-large
embedseg-large segment embryo.ome.zarr --model {model_file}
```

It adds what is missing here: test-time augmentation, clustering, and volumes of any size without
seams. {_size(model)}

Images: {model.settings.channels} channel(s); percentiles {low} and {high} of each channel of the
whole image become 0 and 1, without clipping. Sizes are multiples of 8. The outermost {context}
voxels ({", ".join(model.axes)}) of the network's input lack context: this is the declared halo."""


def _size(model: PortableModel) -> str:
    settings, known = model.settings, []
    voxel = settings.voxel_size
    if settings.object_diameter:
        deep = f", {settings.object_depth:.0f} along z" if settings.object_depth else ""
        known.append(f"Objects of about {settings.object_diameter:.0f} voxels along y and x{deep}.")
    if voxel:
        known.append(f"Voxels of {' x '.join(f'{v:g}' for v in voxel)} µm.")
    return " ".join(known)


def _channels(model: PortableModel) -> str:
    pitch = ", ".join(f"{p:.10g}" for p in model.settings.pitch)
    return f"""## From channels to instances

Channels are raw, in this order: {", ".join(f"`{n}`" for n in model.channel_names)}. With the pitch
({pitch}) of the axes ({", ".join(model.axes)}),

- offset to the object's centre, in voxels: `tanh(raw) / pitch`
- bandwidth, in voxels: `sqrt(1 / (2 exp(10 raw))) / pitch`
- seediness: `1 / (1 + exp(-raw))`

Instances are found greedily: the unclaimed voxel of highest seediness, of at least
{model.settings.seed:g}, is a centre; voxels of seediness above 0.5 whose position plus offset
lies so close to the centre's that the Gaussian of its bandwidth is above

{model.settings.margin:g} form its instance, if there are more than {model.settings.min_object_size}
of them and more than half of them are unclaimed."""


def _training(card: Mapping[str, Any]) -> str:
    told = [f"- {word}: {card[key]}" for key, word in _TOLD.items() if key in card]
    return "\n".join(["## Training", "", *(told or ["Not recorded."])])


def _validation(card: Mapping[str, Any]) -> str:
    """Return the scores, and how to compute others: bioimage.io requires this section."""
    lines = ["## Validation", "", "AP = TP / (TP + FP + FN) of whole images, at each IoU.", ""]
    scores = card.get("scores") or list(_trained(card))
    lines += list(_table(scores)) if scores else ["No scores are recorded."]
    return "\n".join([*lines, "", "On your own data: `embedseg-large evaluate PREDICTION TRUTH`."])


def _trained(card: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the scores recorded by training, in the form of those of a bundled model."""
    if found := card.get("validation"):
        yield {"data": "validation", "tta": "none", "ap": found["ap"]}


def _table(scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    levels = list(scores[0]["ap"])
    yield f"| images | augmentation | {' | '.join(f'IoU {level}' for level in levels)} |"
    yield "|---" * (2 + len(levels)) + "|"
    for score in scores:
        values = " | ".join(f"{score['ap'].get(level, float('nan')):.3f}" for level in levels)
        yield f"| {score['data']} | {score['tta']} | {values} |"
