from .clustering.clean import clean as clean
from .clustering.cluster import cluster as cluster
from .conversion.convert import convert as convert
from .embedding import Embedding as Embedding
from .errors import EmbedSegError as EmbedSegError
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.scores import Score as Score
from .measurement.measure import measure as measure
from .network.checkpoint import load_model as load_model
from .network.exchange.export import export_model as export_model
from .network.model import Model as Model
from .reporting.report import report as report
from .segmentation.report import SeamReport as SeamReport
from .segmentation.report import SegmentResult as SegmentResult
from .segmentation.segment import segment as segment
from .segmentation.segmenters.tile_segmenter import TileSegmenter as TileSegmenter
from .storage.tables import Table as Table
from .synthesis.files import synthesise as synthesise
from .training.train import train as train
from .volumes.intensity import normalise as normalise
from .volumes.volume import Volume as Volume
from .volumes.volume import open_volume as open_volume

__all__: list[str]
