"""Models leave for other programs with the same numbers, and come back with the same weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.errors import RunError, UsageError
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.exchange import bioimageio, export, onnx, portable
from embedseg_large.network.exchange.bioimageio import needed_of
from embedseg_large.network.exchange.export import export_model
from embedseg_large.network.exchange.imported import import_model
from embedseg_large.network.exchange.onnx import OPSET, TOLERANCE, run_onnx
from embedseg_large.network.exchange.torchscript import NOTES
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.volumes.intensity import PERCENTILES as PERCENTILES_OF_A_RUN

NAMES = ["offset_x", "offset_y", "sigma_x", "sigma_y", "seed"]


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def image_of(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def untrained(ndim: int, channels: int = 1, **settings: Any) -> Model:
    """A model with any weights; its offsets are not all 0."""
    torch.manual_seed(3)
    weights = BranchedERFNet(ndim, channels).state_dict()
    weights["decoders.0.output_conv.weight"].normal_(std=0.1)
    sizes: dict[str, Any] = {"pitch": (0.02,) * ndim, "extent": (9,) * ndim, "min_object_size": 5}
    return Model(weights, ModelSettings.from_objects(**sizes, channels=channels, **settings))


# Packages of bioimage.io ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The 2D model that comes with this program, as a package, and what the command says."""
    path = tmp_path_factory.mktemp("package") / "nuclei.zip"
    code, told, error = run("export", "nuclei-2d", path, "--author", "A. Author", "--json")
    assert code == 0, error
    return path, json.loads(told)


@pytest.fixture(scope="module")
def files(package: tuple[Path, dict[str, Any]]) -> dict[str, bytes]:
    """Its content."""
    with ZipFile(package[0]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def description(files: dict[str, bytes]) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files["rdf.yaml"])
    return content


@pytest.mark.slow
def test_a_package_passes_every_test_of_bioimageio(package: tuple[Path, dict[str, Any]]) -> None:
    path, told = package
    assert told["path"] == str(path)
    assert told["size"] == path.stat().st_size
    for kind in ("torchscript", "onnx"):
        assert f"Reproduce test outputs from test inputs ({kind})" in told["tests"]
        sizes = [test for test in told["tests"] if test.startswith(f"Run {kind} inference")]
        assert len(sizes) == 6  # three sizes, in batches of one and two


@pytest.mark.slow
def test_a_package_describes_channels_sizes_and_normalisation(description: dict[str, Any]) -> None:
    model = load_model("nuclei-2d")
    (tensor,), (output,) = description["inputs"], description["outputs"]
    assert output["axes"][1]["channel_names"] == NAMES
    assert [axis["size"] for axis in tensor["axes"][2:]] == [{"min": 56, "step": 8}] * 2
    assert tuple(axis["halo"] for axis in output["axes"][2:]) == model.context
    scaled = tensor["preprocessing"][1]["kwargs"]
    assert (scaled["min_percentile"], scaled["max_percentile"]) == PERCENTILES_OF_A_RUN
    assert scaled["axes"] == ["y", "x"]  # of each channel and image
    assert description["config"]["embedseg_large"]["pitch"] == list(model.pitch)


@pytest.mark.slow
def test_a_package_says_who_made_it_and_how_to_get_instances(
    description: dict[str, Any], files: dict[str, bytes]
) -> None:
    assert description["authors"] == [{"name": "A. Author"}]
    assert description["license"] == "BSD-3-Clause"
    page = files["README.md"].decode()
    card = load_model("nuclei-2d").card
    assert card["limits"] in page
    assert "embedseg-large segment embryo.ome.zarr --model model.safetensors" in page
    assert f"| validation | none | {card['scores'][0]['ap']['0.5']:.3f} |" in page
    assert files["cover.png"].startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_package_gives_back_the_model(
    package: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    code, _, error = run("import", package[0], tmp_path / "again.safetensors")
    assert code == 0, error
    assert load_model(tmp_path / "again.safetensors").fingerprint == (
        load_model("nuclei-2d").fingerprint
    )


def test_a_package_that_fails_a_test_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bioimageio, "onnx_of", lambda _: (b"", 0.0))
    monkeypatch.setattr(bioimageio, "tests_of", lambda _: {"form": "", "output": "it differs"})
    sample = image_of((80, 72))
    with pytest.raises(RunError, match="output: it differs"):
        export_model(untrained(2), tmp_path / "model.zip", sample=sample)
    assert not list(tmp_path.iterdir())


def test_something_else_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no package")
    assert any(bioimageio.tests_of(tmp_path / "a.zip").values())


@pytest.mark.parametrize(
    ("shape", "context", "wanted"),
    [
        ((300, 61), 24, (256, 56)),  # at most 256, multiples of 8
        ((30, 400), 32, (30, 256)),  # less than needed is mirrored later
        ((90, 90, 500), 32, (72, 72, 72)),  # 64 would be no more than the context
    ],
)
def test_the_test_image_is_the_middle_of_valid_size(
    shape: tuple[int, ...], context: int, wanted: tuple[int, ...]
) -> None:
    settings = untrained(len(shape), context=(context,) * len(shape)).settings
    box = needed_of(shape, settings)
    assert box.shape == wanted
    before = [(n - size) // 2 for n, size in zip(shape, wanted, strict=True)]
    assert list(box.start) == before


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), "the sample is constant"),
        (np.zeros((2, 64, 64), np.uint8), r"the sample has shape \(2, 64, 64\)"),
        (np.full((64, 64), np.nan), "the sample is constant, or not finite"),
    ],
)
def test_a_sample_that_shows_nothing_is_refused(
    image: NDArray[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(untrained(2), tmp_path / "a.zip", sample=image)


# ONNX -------------------------------------------------------------------------------------------


def assert_same(answer: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert answer.shape == wanted.shape
    assert np.abs(answer - wanted).max() < TOLERANCE * wanted.std()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8), (24, 112), (96, 40)])
def test_onnx_gives_the_models_channels_at_any_size(
    files: dict[str, bytes], shape: tuple[int, int]
) -> None:
    model, images = load_model("nuclei-2d"), image_of((3, 1, *shape))
    answer = run_onnx(files["weights.onnx"], images)
    for image, raw in zip(images, answer, strict=True):
        assert_same(raw, model.predict_raw(image))


@pytest.mark.slow
def test_onnx_tells_what_is_needed_besides_the_graph(files: dict[str, bytes]) -> None:
    reader = pytest.importorskip("onnx")
    proto, model = reader.load_from_string(files["weights.onnx"]), load_model("nuclei-2d")
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    settings = ModelSettings.from_dict(json.loads(notes["embedseg_large.settings"]))
    assert settings == model.settings
    assert json.loads(notes["embedseg_large.pitch"]) == list(model.pitch)
    assert json.loads(notes["embedseg_large.output_channels"]) == NAMES
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": OPSET}


@pytest.mark.slow
def test_onnx_works_in_3d(tmp_path: Path) -> None:
    model = untrained(3, channels=2)
    exported = export_model(model, tmp_path / "model.onnx")
    assert exported.difference is not None
    assert exported.difference < TOLERANCE
    image = image_of((2, 16, 24, 40))
    answer = run_onnx(exported.path.read_bytes(), image[None])[0]
    assert_same(answer, model.predict_raw(image))


def test_onnx_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = portable.PortableModel.of(untrained(2))

    def slightly_wrong(_: bytes, image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            raw: NDArray[np.float32] = model.network(torch.from_numpy(image)).numpy()
        return raw * np.float32(1.001)

    monkeypatch.setattr(onnx, "run_onnx", slightly_wrong)
    with pytest.raises(
        RunError, match=r"ONNX differs from torch by .* of the output's standard deviation"
    ):
        onnx.checked_difference(model, b"")


# TorchScript ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("ndim", "shape"), [(2, (40, 24)), (3, (16, 24, 8))])
def test_torchscript_gives_the_models_channels(
    ndim: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model, image = untrained(ndim, voxel_size=(2.0, 0.5, 0.5)[-ndim:]), image_of((1, *shape))
    export_model(model, tmp_path / "model.pt")
    notes, load = {NOTES: ""}, getattr(torch.jit, "load")  # noqa: B009  (has no annotations)
    network = load(tmp_path / "model.pt", _extra_files=notes)
    with torch.no_grad():
        assert_same(network(torch.from_numpy(image[None]))[0].numpy(), model.predict_raw(image))
    told = json.loads(notes[NOTES])
    assert ModelSettings.from_dict(json.loads(told["settings"])) == model.settings


# Packages from elsewhere ------------------------------------------------------------------------


def packed(path: Path, content: bytes, how: int = ZIP_DEFLATED) -> Path:
    """A package that holds only what is imported."""
    with ZipFile(path, "w", how) as archive:
        archive.writestr("model.safetensors", content)
    return path


def refused(package: Path) -> str:
    """The message with which a package is refused."""
    out = package.with_name("out.safetensors")
    code, told, error = run("import", package, out)
    assert (code, told, out.exists()) == (2, "", False)
    [message] = error.splitlines()
    assert f"model.safetensors in {package}" in message
    return message


def test_a_package_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZipFile, "extract", lambda *_: pytest.fail("unpacked"))
    package = packed(tmp_path / "a.zip", bytes(10**7))
    assert re.search(r"cannot be unpacked .*\d bytes would become 10000000", refused(package))


def test_a_package_with_a_password_is_refused_in_one_line(tmp_path: Path) -> None:
    package = packed(tmp_path / "a.zip", b"weights")
    content = bytearray(package.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + flags] |= 1  # encrypted
    package.write_bytes(content)
    assert "is encrypted" in refused(package)


@pytest.mark.parametrize("how", [ZIP_STORED, ZIP_DEFLATED])
def test_a_damaged_package_is_refused_in_one_line(tmp_path: Path, how: int) -> None:
    noise = np.random.default_rng(0).bytes(5000)
    package = packed(tmp_path / "a.zip", noise, how)
    content = bytearray(package.read_bytes())
    content[60:120] = bytes(60)
    package.write_bytes(content)
    assert "cannot be unpacked" in refused(package)


def test_a_member_that_is_no_model_is_named_in_its_package(tmp_path: Path) -> None:
    message = refused(packed(tmp_path / "a.zip", b"weights"))
    assert "no model file that this program saved" in message
    model = untrained(2)
    model.settings = replace(model.settings, channels=3)
    model.save(tmp_path / "model")
    message = refused(packed(tmp_path / "a.zip", (tmp_path / "model").read_bytes()))
    assert "it is not a 2D EmbedSeg network with 3 image channels" in message


# Checkpoints of the original --------------------------------------------------------------------

PROPERTIES: dict[str, Any] = {
    "min_object_size": 11,
    **{f"avg_object_size_{a}": 12.0 for a in "yx"},
    **{f"stdev_object_size_{a}": 2.0 for a in "yx"},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint as the original leaves it: the grid is in its configuration only."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    torch.save({"model_state_dict": untrained(2).weights}, folder / "best_iou_model.pth")
    (folder / "data_properties.json").write_text(json.dumps(PROPERTIES))
    return folder


def test_all_that_a_checkpoint_lacks_is_named_at_once(checkpoint: Path, tmp_path: Path) -> None:
    code, _, error = run("import", checkpoint, tmp_path / "model.safetensors")
    assert code == 2
    assert "lacks grid_y, grid_x, pixel_y, pixel_x; add them" in error
    assert "embedseg-large import has --grid and --pixel" in error


def test_a_checkpoint_becomes_one_file_with_a_card(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    given = ("--grid", "513,1025", "--pixel", "1,1", "--voxel-size", ".4,.4")
    code, told, error = run("import", checkpoint, out, *given)
    assert code == 0, error
    assert "licence     unknown; ask the author" in told
    model = load_model(out)
    assert model.pitch == (1 / 512, 1 / 1024)
    assert model.voxel_size == (0.4, 0.4)
    assert model.card["source"]["folder"] == "experiment"
    assert len(model.card["source"]["sha256"]) == 64


def test_a_licence_that_is_known_is_on_the_card(checkpoint: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"grid": (513, 513), "pixel": (1, 1)}
    stored = import_model(checkpoint, tmp_path / "m", **sizes, licence="CC-BY-4.0")
    assert stored.card["licence"] == "CC-BY-4.0"


def test_a_grid_of_other_axes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    code, _, error = run("import", checkpoint, out, "--grid", "32,64,64", "--pixel", "1,1")
    assert code == 2
    assert "grid has 3 numbers; the checkpoint is 2D: give 2, for y, x" in error
    assert not out.exists()


@pytest.mark.shared_data
def test_a_real_checkpoint_is_imported_as_it_is_loaded(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data.parent / "checkpoints" / "bbbc050_original_format"
    code, _, error = run("import", folder, tmp_path / "bbbc050.safetensors")
    assert code == 0, error
    again = load_model(tmp_path / "bbbc050.safetensors")
    assert again.fingerprint == load_model(folder).fingerprint


# Wrong use --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "nuclei-2d", "model.tar"), "its suffix names no format; use .zip, .onnx or"),
        (("export", "nuclei-2d", "model.pt", "--format", "keras"), "format is 'keras'; use one of"),
        (("export", "nuclei-2d", "nowhere/model.pt"), "there is no folder nowhere; create it"),
        (("export", "nuclei-2d", "taken.pt"), "taken.pt exists; choose another name, or --over"),
        (("export", "nuclei-9d", "model.pt"), "no model 'nuclei-9d'"),
        (("export", "nuclei-2d", "a.zip", "--licence", "mine"), "use an SPDX identifier"),
        (("export", "nuclei-2d", "a.zip", "--sample", "no.tif"), "no.tif: there is no such file"),
        (("import", "nowhere", "model.safetensors"), "nowhere: no such folder"),
        (("import", "taken.pt", "model.safetensors"), "nor a package that embedseg-large exported"),
        (("import", ".", "taken.pt"), "taken.pt exists"),
        (("import", ".", "model.safetensors"), "neither best_iou_model.pth nor checkpoint.pth"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.pt").write_bytes(b"mine")
    code, told, error = run(*words)
    assert (code, told) == (2, "")
    assert message in error.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["taken.pt"]
    assert Path("taken.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "out"), [("onnxscript", "a.onnx"), ("bioimageio.core", "a.zip")])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    name: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: str) -> object:
        if asked == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(asked)

    monkeypatch.setattr(portable, "import_module", refuse)
    code, _, error = run("export", "nuclei-2d", tmp_path / out)
    assert code == 2
    assert f'needs {name}; pip install "embedseg-large[export]"' in error


def test_a_package_without_a_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass a sample"):
        export_model(untrained(2), tmp_path / "a.zip")


def test_a_file_is_replaced_only_if_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(b"old")
    exported = export.export_model(untrained(2), path, overwrite=True)
    assert path.stat().st_size == exported.size > 1_000_000
