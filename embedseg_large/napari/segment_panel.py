"""The segmentation tab: image, model and settings; then live thresholds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    FloatSlider,
    FloatSpinBox,
    PushButton,
    Slider,
    SpinBox,
)
from napari.layers import Image, Shapes

from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.napari.background import Background, attempt
from embedseg_large.napari.form import Form, message_line
from embedseg_large.napari.live import Live
from embedseg_large.napari.model_choice import ModelChoice
from embedseg_large.napari.segmenting import (
    THRESHOLDS,
    Segmentation,
    Wish,
    fixed_thresholds,
    segment_part,
)
from embedseg_large.napari.selection import (
    LayerSource,
    box_in_view,
    box_of_shapes,
    corners_of,
    source_of,
    within_planes,
)
from embedseg_large.napari.telling import ToldOfRun
from embedseg_large.segmentation.intensity_field import MODES
from embedseg_large.segmentation.request.scale_choice import AUTO

WHOLE, VIEW, SHAPES = "the whole layer", "what is in view", "drawn shapes"
_SIZES = 20
"""The slider of the minimum size extends to this multiple of the model's value."""
_MOST_PLANES = 10**6


class SegmentPanel:
    """Segments an image layer into a new labels layer.

    Parameters
    ----------
    viewer
        The napari viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._live: Live | None = None
        self.background = Background(self._show_state, self._show)
        self._make_choices()
        self._make_thresholds()
        self._form = Form(self._rows())
        self.native = self._form.native
        self._connect()
        self._use_model()

    def _make_choices(self) -> None:
        self.image = ComboBox(choices=lambda _: self._layers(Image))
        self._models = ModelChoice(self._use_model, self._show)
        self.model, self.file = self._models.field, self._models.file
        self.tta = ComboBox(choices=["none"])
        self.diameter = FloatSpinBox(value=0, min=0, max=10_000, step=1)
        self.auto = CheckBox(text="find the scale")
        self.light = ComboBox(choices=list(MODES))
        self.where = ComboBox(choices=[WHOLE, VIEW, SHAPES])
        self.shapes = ComboBox(choices=lambda _: self._layers(Shapes))
        self.first = SpinBox(min=0, max=_MOST_PLANES)
        self.last = SpinBox(min=0, max=_MOST_PLANES)
        self.extent = message_line()
        self.begin, self.stop = PushButton(text="Segment"), PushButton(text="Cancel")
        self.tta.tooltip = "Passes of the network over rotated and flipped images"
        self.diameter.tooltip = "Diameter of the objects in y and x, in voxels; 0: the model's"
        self.auto.tooltip = "Compare sizes on a sample first, and use the most consistent one"
        self.light.tooltip = "Even out uneven light: with depth, or along all axes"
        self.first.tooltip = self.last.tooltip = "First and last plane to segment"

    def _make_thresholds(self) -> None:
        self.seed = FloatSlider(min=0, max=1, step=0.01)
        self.foreground = FloatSlider(min=0.1, max=1, step=0.01, value=0.5)
        self.margin = FloatSlider(min=0.05, max=0.95, step=0.01, value=0.5)
        self.size = Slider(min=0, max=100)
        self.status = message_line()
        self.seed.tooltip = "Minimum seediness of a seed: lower finds more objects"
        self.foreground.tooltip = (
            "Minimum seediness of an object's voxels: lower makes objects thicker"
        )
        self.margin.tooltip = "Minimum Gaussian value of a voxel: lower makes objects larger"
        self.size.tooltip = "Objects have more voxels than this"

    def _rows(self) -> list[tuple[str, Any]]:
        return [
            ("image", self.image),
            ("model", self.model),
            ("or a file", self.file),
            ("augmentation", self.tta),
            ("diameter", (self.diameter, self.auto)),
            ("uneven light", self.light),
            ("where", self.where),
            ("shapes", self.shapes),
            ("planes", (self.first, self.last)),
            ("", self.extent),
            ("", (self.begin, self.stop)),
            ("seed", self.seed),
            ("foreground", self.foreground),
            ("margin", self.margin),
            ("smallest size", self.size),
            ("", self.status),
        ]

    def _connect(self) -> None:
        self.image.changed.connect(self._use_image)
        self.shapes.changed.connect(self._use_shapes)
        for field in (self.where, self.first, self.last):
            field.changed.connect(self.describe)
        self.tta.changed.connect(self._use_augmentation)
        for field in (self.seed, self.foreground, self.margin, self.size):
            field.changed.connect(self._follow)
        self.begin.changed.connect(self.segment)
        self.stop.changed.connect(self.background.cancel)

    def models(self) -> list[str]:
        """Names and files of the models in the list."""
        return self._models.names

    def add_model(self, path: Path) -> None:
        """Add the model of a file, and select it."""
        self._models.add(path)

    def reset_choices(self) -> None:
        """List the current layers, and drop predictions of removed layers."""
        self.image.reset_choices()
        self.shapes.reset_choices()
        if self._live is not None and self._live.layer not in self._viewer.layers:
            self._live = None

    def thresholds(self) -> ClusteringSettings:
        """The values of the sliders."""
        return ClusteringSettings(
            min_object_size=self.size.value,
            foreground=self.foreground.value,
            seed=self.seed.value,
            margin=self.margin.value,
        )

    def selected(self) -> tuple[LayerSource, Box]:
        """Return the chosen image and the part to segment.

        Raises
        ------
        UsageError
            If there is nothing to segment.
        """
        if self.image.value is None:
            raise UsageError("there is no image layer; open an image")
        source = source_of(self.image.value, self._models.model.ndim, self._viewer.dims.point)
        return source, within_planes(self._region(source), (self.first.value, self.last.value))

    def segment(self) -> None:
        """Start segmenting the chosen part."""
        self.describe()  # the view may have moved
        chosen = attempt(self.selected)
        if chosen.value is None:
            self._show(chosen.message)
            return
        source, box = chosen.value
        told = ToldOfRun()
        work = partial(segment_part, source, box, self._wish(), told)
        name = f"{source.name} {Path(self.model.value).stem}"
        self.background.run(
            f"segment {source.name}",
            told,
            work,
            partial(self._add, source, box, name),
            layer=source.name,
        )

    def describe(self) -> None:
        """Show what would be segmented."""
        self._show_state()
        chosen = attempt(self.selected)
        if chosen.value is None:
            self.extent.setText(chosen.message)
        else:
            source, box = chosen.value
            self.extent.setText(source.describe(box))

    def _wish(self) -> Wish:
        return Wish(
            model=self.model.value,
            tta=self.tta.value,
            object_diameter=AUTO if self.auto.value else self.diameter.value or None,
            intensity_field=self.light.value,
            thresholds=self.thresholds(),
        )

    def _region(self, source: LayerSource) -> Box:
        if self.where.value == VIEW:
            first = self._viewer.dims.ndim - source.layer.ndim
            axes = [axis - first for axis in self._viewer.dims.displayed if axis >= first]
            return box_in_view(source, axes)
        if self.where.value == SHAPES:
            return box_of_shapes(source, corners_of(self.shapes.value))
        return Box.whole(source.shape)

    def _layers(self, kind: type) -> list[Any]:
        return [layer for layer in self._viewer.layers if isinstance(layer, kind)]

    def _add(self, source: LayerSource, box: Box, name: str, found: Segmentation) -> None:
        """Show the result, and connect the sliders to it."""
        layer = self._viewer.add_labels(
            source.in_front(found.labels), name=name, **source.placed(box)
        )
        self._live = None if found.kept is None else Live(found.kept, layer, self._show)
        self._show(found.summary)

    def _follow(self) -> None:
        """Cluster again, if there are predictions."""
        if self._live is not None and not self.background.is_busy:
            self._live.ask(self.thresholds())

    def _use_model(self) -> None:
        """Show the options of the model, with its thresholds."""
        self._live = None  # from now on, the sliders belong to this model
        model = self._models.model
        self.tta.choices = model.tta_modes
        self.light.choices = [m for m in MODES if m != "depth" or model.ndim == 3]
        self.size.max = max(100, _SIZES * model.min_object_size)
        self.size.value = model.min_object_size
        self._use_augmentation()
        self._use_image()
        self._show_thresholds()

    def _show_thresholds(self) -> None:
        """Show only what the model lets the user choose, and why the rest is missing."""
        fixed = fixed_thresholds(self._models.model)
        for row in THRESHOLDS:
            self._form.show(row, visible=fixed is None)
        self.auto.enabled = fixed is None  # scales are compared by their embeddings
        if fixed is not None:
            self.auto.value = False
            self._show(fixed)

    def _use_augmentation(self) -> None:
        """Set the model's thresholds for the chosen augmentation."""
        if self.tta.value not in self._models.model.tta_modes:
            return
        own = self._models.model.thresholds_of(self.tta.value)
        if own != (self.seed.value, self.margin.value):
            self._live = None  # from now on, the sliders belong to another augmentation
            self.seed.value, self.margin.value = own

    def _use_image(self) -> None:
        """Select a suitable model, and all planes."""
        if self.image.value is not None:
            self._models.fit(self.image.value.ndim)
        self.first.value, self.last.value = 0, self._planes() - 1
        self.describe()

    def _use_shapes(self) -> None:
        """Follow the drawn shapes."""
        if self.shapes.value is not None:
            self.shapes.value.events.data.connect(self.describe)
        self.describe()

    def _planes(self) -> int:
        """Number of planes of the image, at the displayed level."""
        layer, point = self.image.value, self._viewer.dims.point
        source = None if layer is None else attempt(partial(source_of, layer, 3, point)).value
        return _MOST_PLANES if source is None else source.shape[0]

    def _show(self, text: str) -> None:
        self.status.setText(text)

    def _show_state(self) -> None:
        """Show the fields that currently apply."""
        self.begin.enabled = not self.background.is_busy
        self.stop.enabled = self.background.is_busy
        self._form.show("shapes", visible=self.where.value == SHAPES)
        self._form.show("planes", visible=self._models.model.ndim == 3)
