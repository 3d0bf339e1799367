"""Choice of the model from a list, which can be extended and follows the axes of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from magicgui.widgets import ComboBox, FileEdit

from embedseg_large.models import bundled_models
from embedseg_large.napari.background import attempt
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model


class ModelChoice:
    """A list of models, and a field for another model file.

    A bundled model is replaced by the other one while an image has too few axes for it; the user's
    choice returns with the next suitable image.

    Parameters
    ----------
    changed
        Called when another model is in use.
    show
        Shows a message.
    """

    def __init__(self, changed: Callable[[], None], show: Callable[[str], None]) -> None:
        self._changed, self._show = changed, show
        self.names = sorted(bundled_models(), reverse=True)  # the 3D model first
        """Names and files in the list."""
        self._methods: dict[str, str] = {}  # known once a model was loaded
        self.field = ComboBox(choices=lambda _: [(self._text(n), n) for n in self.names])
        self.file = FileEdit(mode="r", filter="*.safetensors", nullable=True)
        self._name: str = self.field.value
        self.model = load_model(self._name)
        """The model in use."""
        self._methods = {n: load_model(n).settings.method for n in self.names}
        self._select(self._name)
        self._meant, self._meant_ndim = self._name, self.model.ndim
        self.field.changed.connect(self._choose)
        self.file.changed.connect(self._use_file)

    def add(self, path: Path) -> None:
        """Add the model of a file and select it; report a file that is not a model."""
        if str(path) not in self.names:
            self.names.append(str(path))
            with self.field.changed.blocked():
                self.field.reset_choices()
        self.field.value = str(path)

    def fit(self, ndim: int) -> None:
        """Use the chosen model, or the bundled one for an image with few axes.

        Parameters
        ----------
        ndim
            Axes of the image.
        """
        name = self._fitting(ndim)
        if name != self._name:
            self._use(name, load_model(name))

    def _fitting(self, ndim: int) -> str:
        instead = f"nuclei-{ndim}d"
        is_ours = self._meant in bundled_models() and instead in self.names
        return instead if is_ours and ndim < self._meant_ndim else self._meant

    def _choose(self) -> None:
        """Adopt the model that the user has chosen, unless it cannot be loaded."""
        name: str = self.field.value
        found = attempt(partial(load_model, name))
        if found.value is None:
            self.names.remove(name)
            self._select(self._name)
            self._show(found.message)
        else:
            self._meant, self._meant_ndim = name, found.value.ndim
            self._use(name, found.value)

    def _text(self, name: str) -> str:
        """A model in the list: its name, and its method."""
        return f"{name} ({self._methods[name]})" if name in self._methods else name

    def _use(self, name: str, model: Model) -> None:
        self._name, self.model = name, model
        self._methods[name] = model.settings.method
        self._select(name)
        self._show("")  # an earlier message referred to another model
        self._changed()

    def _select(self, name: str) -> None:
        """Show the current list, with the model in use selected."""
        with self.field.changed.blocked():
            self.field.reset_choices()
            self.field.value = name

    def _use_file(self) -> None:
        path = self.file.value
        if path is not None and not Path(path).is_file():
            self._show(f"there is no file {path}; choose another one")
            return
        self._show("")  # an earlier message referred to another file
        if path is not None:
            self.add(Path(path))
