"""Every nucleus or cell of a volume far larger than memory, as one label volume.

The names below are the public interface. They are loaded when they are first used, so that
``import embedseg_large`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedseg_large.clustering.clean import clean
    from embedseg_large.clustering.cluster import cluster
    from embedseg_large.conversion.convert import convert
    from embedseg_large.embedding import Embedding
    from embedseg_large.errors import EmbedSegError
    from embedseg_large.evaluation.evaluate import evaluate
    from embedseg_large.evaluation.scores import Score
    from embedseg_large.measurement.measure import measure
    from embedseg_large.network.checkpoint import load_model
    from embedseg_large.network.exchange.export import export_model
    from embedseg_large.network.model import Model
    from embedseg_large.reporting.report import report
    from embedseg_large.segmentation.report import SeamReport, SegmentResult
    from embedseg_large.segmentation.segment import segment
    from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
    from embedseg_large.storage.tables import Table
    from embedseg_large.synthesis.files import synthesise
    from embedseg_large.training.train import train
    from embedseg_large.volumes.intensity import normalise
    from embedseg_large.volumes.volume import Volume, open_volume

__all__ = [
    "EmbedSegError",
    "Embedding",
    "Model",
    "Score",
    "SeamReport",
    "SegmentResult",
    "Table",
    "TileSegmenter",
    "Volume",
    "clean",
    "cluster",
    "convert",
    "evaluate",
    "export_model",
    "load_model",
    "measure",
    "normalise",
    "open_volume",
    "report",
    "segment",
    "synthesise",
    "train",
]

_HOME = {
    "EmbedSegError": "errors",
    "Embedding": "embedding",
    "Model": "network.model",
    "Score": "evaluation.scores",
    "SeamReport": "segmentation.report",
    "SegmentResult": "segmentation.report",
    "Table": "storage.tables",
    "TileSegmenter": "segmentation.segmenters.tile_segmenter",
    "Volume": "volumes.volume",
    "clean": "clustering.clean",
    "cluster": "clustering.cluster",
    "convert": "conversion.convert",
    "evaluate": "evaluation.evaluate",
    "export_model": "network.exchange.export",
    "load_model": "network.checkpoint",
    "measure": "measurement.measure",
    "normalise": "volumes.intensity",
    "open_volume": "volumes.volume",
    "report": "reporting.report",
    "segment": "segmentation.segment",
    "synthesise": "synthesis.files",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
