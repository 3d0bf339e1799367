"""Adapters of other programs, on stand-ins with the signatures of these programs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

import embedseg_large as es
from embedseg_large import adapters
from embedseg_large.errors import UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo


def bright(image: Any) -> NDArray[Any]:
    labels: NDArray[Any] = ndimage.label(np.asarray(image) > 0.4)[0]
    return labels


class Cellpose:
    """Cellpose 4.2: the arguments of its class and of `eval` that are used, by name."""

    def __init__(self, gpu: bool = False, pretrained_model: str = "cpsam_v2") -> None:
        assert (gpu, pretrained_model) == (False, "cpsam_v2")

    def eval(
        self,
        x: Any,
        z_axis: int | None = None,
        normalize: bool = True,
        diameter: float | None = None,
        do_3D: bool = False,  # noqa: N803
        min_size: int = 15,
        max_size_fraction: float = 0.4,
    ) -> tuple[NDArray[Any], list[Any], NDArray[Any]]:
        assert (do_3D, z_axis) == ((True, 0) if x.ndim == 3 else (False, None))
        assert (normalize, diameter, min_size, max_size_fraction) == (False, 12, -1, 1.0)
        return bright(x).astype(np.uint16), [], np.zeros(256)


class StarDist:
    """StarDist 0.9."""

    @classmethod
    def from_pretrained(cls, name: str) -> StarDist:
        assert name == "demo"
        return cls()

    def predict_instances(
        self, img: Any, axes: str | None = None, show_tile_progress: bool = True
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        assert (axes, show_tile_progress) == ("ZYX"[-img.ndim :], False)
        return bright(img), {"prob": []}


class MaskRcnn(torch.nn.Module):
    """torchvision 0.28: one dictionary of boxes, labels, scores and masks for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = SimpleNamespace(min_size=(800,), max_size=1333)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (image,) = images
        shape = image.shape[1:]
        assert image.shape[0] == 3
        assert (self.transform.min_size, self.transform.max_size) == ((min(shape),), max(shape))
        labels = bright(image[0])
        masks = np.stack([labels == n + 1 for n in range(labels.max())] or [labels > 1])
        scores = np.linspace(0.9, 0.6, len(masks))
        return [
            {
                "masks": torch.from_numpy(masks.astype(np.float32))[:, None],
                "scores": torch.from_numpy(scores),
            }
        ]


def maskrcnn_resnet50_fpn(
    *, weights: Any, weights_backbone: Any, num_classes: int, box_detections_per_img: int
) -> MaskRcnn:
    assert (weights, weights_backbone) == (None, None)
    assert (num_classes, box_detections_per_img) == (2, 1000)
    return MaskRcnn()


def automatic_instance_segmentation(
    predictor: Any, segmenter: Any, input_path: Any, ndim: int | None = None
) -> NDArray[Any]:
    assert (predictor, segmenter, ndim) == ("predictor", "segmenter", 2)
    assert input_path.dtype == np.uint8
    return bright(input_path / 255)


STANDINS: dict[str, tuple[str, dict[str, Any]]] = {
    "cellpose": ("models", {"CellposeModel": Cellpose}),
    "stardist": ("models", {"StarDist2D": StarDist, "StarDist3D": StarDist}),
    "torchvision": ("models.detection", {"maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn}),
    "micro_sam": (
        "automatic_segmentation",
        {
            "get_predictor_and_segmenter": lambda model_type, device: ("predictor", "segmenter"),  # noqa: ARG005
            "automatic_instance_segmentation": automatic_instance_segmentation,
        },
    ),
}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, (inside, names) in STANDINS.items():
        parts = inside.split(".")
        for depth in range(len(parts) + 1):
            name = ".".join([package, *parts[:depth]])
            module = ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        vars(sys.modules[f"{package}.{inside}"]).update(names)


def segmenter_of(name: str, ndim: int, folder: Path) -> es.TileSegmenter:
    torch.save(MaskRcnn().state_dict(), folder / "weights.pt")
    made = {
        "cellpose": lambda: adapters.cellpose(12, ndim=ndim),
        "stardist": lambda: adapters.stardist("demo", 16, ndim=ndim),
        "mask-rcnn": lambda: adapters.mask_rcnn(str(folder / "weights.pt"), 16),
        "micro-sam": lambda: adapters.micro_sam(16),
    }
    return made[name]()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("name", "ndim"),
    [
        ("cellpose", 2),
        ("cellpose", 3),
        ("stardist", 2),
        ("stardist", 3),
        ("mask-rcnn", 2),
        ("micro-sam", 2),
    ],
)
def test_an_adapter_finds_what_its_program_finds(tmp_path: Path, name: str, ndim: int) -> None:
    shape = {2: (96, 100), 3: (24, 48, 48)}[ndim]
    cells = synthetic_embryo(shape, diameter=10, density=0.2, spacing=1.5)
    segmenter = segmenter_of(name, ndim, tmp_path)
    found = es.segment(
        render(cells), segmenter, output=tmp_path / "out.zarr", cluster_tile=(40,) * ndim
    )
    assert found.summary["segmenter"] == name
    assert found.n_instances == cells.max()
    assert found.seams.joined == 0


@pytest.mark.usefixtures("programs")
def test_fields_of_the_segmenter_can_be_chosen() -> None:
    made = adapters.cellpose(12, halo=(4, 4, 4), intensity="raw", version="cpsam of May")
    assert (made.halo, made.intensity, made.version) == ((4, 4, 4), "raw", "cpsam of May")


@pytest.mark.parametrize(
    ("package", "make", "how"),
    [
        ("cellpose", lambda: adapters.cellpose(12), "pip install cellpose"),
        ("stardist", lambda: adapters.stardist("demo", 9), "pip install stardist tensorflow"),
        ("torchvision", lambda: adapters.mask_rcnn("w.pt", 9), "pip install torchvision"),
        ("micro_sam", lambda: adapters.micro_sam(9), "pip install micro-sam"),
    ],
)
def test_a_missing_program_is_named_with_how_to_get_it(
    package: str, make: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=f"needs {package}, which is not installed: {how}$"):
        make()


def test_the_best_score_is_painted_on_top() -> None:
    masks = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], bool)
    painted = adapters.painted(masks, np.array([0.6, 0.9, 0.3]), 0.5)
    assert painted.tolist() == [1, 1, 2, 2, 0]
