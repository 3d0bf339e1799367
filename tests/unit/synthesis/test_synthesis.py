"""Synthetic volumes: exact labels, the same bits for everyone, and settings that are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.synthesis import SynthesisSettings, SyntheticVolume, draw_volume, read_settings
from embedseg_large.synthesis.filters import blurred, smooth_noise
from embedseg_large.synthesis.nuclei import keep_pieces, smallest_sizes
from embedseg_large.synthesis.settings import LAYOUTS, names
from embedseg_large.training.data.sources import find_pairs

SMALL = SynthesisSettings(shape=(16, 48, 48), diameter=(8, 14))
FLAT = SynthesisSettings(ndim=2, shape=(96, 96), diameter=(8, 20))
CLEAN: dict[str, Any] = dict.fromkeys(
    ("nucleoli", "haze", "debris", "out_of_focus", "attenuation", "shading", "stripes"), 0.0
) | dict.fromkeys(("smoothing", "interpolation", "saturation", "black", "rims", "cores"), 0.0)
CLEAN |= dict.fromkeys(("background", "blur", "read_noise", "offset", "texture"), (0.0, 0.0))
CLEAN |= {"photons": (1e9, 1e9), "gamma": (1.0, 1.0)}


def digest(volume: SyntheticVolume) -> str:
    return sha256(volume.image.tobytes() + volume.labels.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", [SMALL, FLAT], ids=["3D", "2D"])
def test_every_label_is_one_piece_and_no_sliver(kind: SynthesisSettings) -> None:
    for index in range(12):
        volume = draw_volume(kind, 3, index)
        ids, sizes = np.unique(volume.labels[volume.labels > 0], return_counts=True)
        assert ids.tolist() == list(range(1, volume.facts["objects"] + 1))
        least = smallest_sizes(volume.facts["diameter"], volume.anisotropy, kind.ndim)[1]
        assert sizes.min() >= least >= 12
        for number, box in enumerate(ndimage.find_objects(volume.labels), start=1):
            assert ndimage.label(volume.labels[box] == number)[1] == 1
        assert volume.image.shape == volume.labels.shape == kind.volume_shape
        assert volume.image.dtype == np.float32
        assert np.isfinite(volume.image).all()


@pytest.mark.parametrize("kind", [SMALL, FLAT], ids=["3D", "2D"])
def test_without_noise_and_optics_exactly_the_labelled_voxels_shine(
    kind: SynthesisSettings,
) -> None:
    clean = replace(kind, **CLEAN)
    for index in range(6):
        volume = draw_volume(clean, 0, index)
        assert ((volume.image > 0) == (volume.labels > 0)).all()


def test_a_clipped_background_is_one_value() -> None:
    volume = draw_volume(replace(SMALL, black=1.0), 0, 2)
    values, counts = np.unique(volume.image, return_counts=True)
    assert counts[0] > 0.04 * volume.image.size
    assert counts[0] == counts.max()
    assert values[0] == volume.image.min()


def test_with_everything_nuclei_are_brighter_than_what_is_between_them() -> None:
    for index in range(12):
        volume = draw_volume(SMALL, 5, index)
        inside = volume.labels > 0
        assert volume.image[inside].mean() > volume.image[~inside].mean()


def test_a_volume_depends_on_its_seed_and_number_alone() -> None:
    alone = [digest(draw_volume(SMALL, 7, index)) for index in range(4)]
    backwards = [digest(draw_volume(SMALL, 7, index)) for index in (3, 2, 1, 0)][::-1]
    assert alone == backwards
    assert len({*alone, *(digest(draw_volume(SMALL, 8, index)) for index in range(4))}) == 8


def test_another_process_draws_the_same_bits() -> None:
    code = """
from hashlib import sha256
from embedseg_large.synthesis import SynthesisSettings, draw_volume
settings = SynthesisSettings(shape=(16, 48, 48), diameter=(8, 14))
for index in (2, 0):
    volume = draw_volume(settings, 7, index)
    print(sha256(volume.image.tobytes() + volume.labels.tobytes()).hexdigest())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [digest(draw_volume(SMALL, 7, index)) for index in (2, 0)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(96, 96), (12, 40, 40)], ids=["2D", "3D"])
def test_every_layout_can_be_had_alone(layout: str, shape: tuple[int, ...]) -> None:
    only: dict[str, Any] = {name: float(name == layout) for name in LAYOUTS}
    kind = SynthesisSettings(ndim=len(shape), shape=shape, diameter=(9, 9), **only)
    volumes = [draw_volume(kind, 1, index) for index in range(3)]
    assert {volume.facts["layout"] for volume in volumes} == {layout}


def test_sizes_and_planes_are_as_stated() -> None:
    flat = read_settings("ndim=2,diameter=16,size_spread=0,roughness=0,elongation=1,metaphases=0,"
                         "anaphases=0,sparse=1,dense=0,cluster=0,shell=0,sheet=0")  # fmt: skip
    labels = draw_volume(flat, 0, 0).labels
    pairs = ((box, labels[box]) for box in ndimage.find_objects(labels))
    whole = [
        part
        for box, part in pairs
        if all(a.start > 0 and a.stop < n for a, n in zip(box, labels.shape, strict=True))
    ]
    areas = [np.count_nonzero(part) for part in whole]
    assert np.median(areas) == pytest.approx(np.pi * 8**2, rel=0.25)
    deep = read_settings("diameter=24,anisotropy=3")
    assert draw_volume(deep, 0, 1).anisotropy == pytest.approx(3)


def test_only_the_largest_piece_of_an_object_is_kept() -> None:
    labels = np.zeros((1, 8, 40), np.int32)
    labels[0, 2:6, 2:9] = 5
    labels[0, 2:4, 12:14] = 5  # a second piece
    labels[0, 3:5, 20:22] = 2  # a sliver
    labels[0, 2:6, 26:33] = 9
    assert keep_pieces(labels, 20, 20).tolist() == [5, 9]
    assert np.bincount(labels.ravel()).tolist() == [320 - 56, 28, 28]


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.6, 12))
def test_a_blur_spreads_as_far_as_it_should_and_loses_nothing(sigma: float) -> None:
    point = np.zeros((1, 129, 129), np.float32)
    point[0, 64, 64] = 1000
    found = blurred(point, (sigma,) * 3)[0].astype(float)
    assert found.sum() == pytest.approx(1000, rel=0.01)
    away = (np.arange(129) - 64) ** 2
    assert np.sqrt((found.sum(axis=0) * away).sum() / found.sum()) == pytest.approx(
        sigma, rel=0.15, abs=0.05
    )


@pytest.mark.parametrize("n", [96, 97, 98, 110, 113])
@pytest.mark.parametrize("sigma", [3.1, 5.0, 10.0])
def test_a_blur_leaves_light_at_the_far_edge_where_it_is(n: int, sigma: float) -> None:
    image = np.zeros((1, 1, n), np.float32)
    image[0, 0, [3, -4]] = 1
    image = ndimage.gaussian_filter(image, (0, 0, 1))
    exact, inside = (
        ndimage.gaussian_filter(a, (0, 0, sigma), mode="constant")
        for a in (image, np.ones_like(image))
    )
    exact /= inside
    assert np.abs(blurred(image, (0, 0, sigma)) - exact).max() < 0.12 * exact.max()


def test_interpolation_hides_no_nucleus() -> None:
    flat = SynthesisSettings(
        shape=(32, 64, 64), **{**CLEAN, "diameter": (4, 6), "anisotropy": (1, 1)}
    )
    changed = 0
    for number in range(6):
        volumes = [
            draw_volume(replace(flat, interpolation=share), 0, number) for share in (0.0, 1.0)
        ]
        labels = volumes[0].labels
        every = np.arange(1, labels.max() + 1)
        before, after = (ndimage.maximum(volume.image, labels, every) for volume in volumes)
        changed += not np.array_equal(volumes[0].image, volumes[1].image)
        assert (after > 0.25 * before).all()
    deep = replace(flat, diameter=(20, 24), interpolation=1.0)
    changed += not np.array_equal(
        draw_volume(deep, 0, 1).image, draw_volume(replace(deep, interpolation=0.0), 0, 1).image
    )
    assert changed  # where nuclei are deep enough, planes are still interpolated


def test_smooth_noise_is_smooth_and_of_unit_strength() -> None:
    noise = smooth_noise((20, 60, 60), (2, 6, 6), np.random.default_rng(0))
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(1, abs=1e-2)
    near = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    # of white noise blurred with s, neighbours correlate with exp(-1 / 4s^2)
    assert near == pytest.approx(np.exp(-1 / (4 * 6**2)), abs=0.01)


def test_settings_are_read_from_words_files_and_mappings(tmp_path: Path) -> None:
    words = read_settings("diameter=12:30, anisotropy=2, shape=20x64x64")
    assert words.diameter == (12, 30)
    assert words.anisotropy == (2, 2)
    assert words.volume_shape == (20, 64, 64)
    values = {"diameter": [12, 30], "anisotropy": 2, "shape": [20, 64, 64]}
    (tmp_path / "s.json").write_text(json.dumps(values))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    assert read_settings(tmp_path / "s.json") == read_settings(str(tmp_path / "s.yaml")) == words
    assert read_settings(values) == read_settings(words) == words
    assert read_settings(None, ndim=2).volume_shape == (256, 256)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("diameter=30:12", "diameter is 30:12, which descends; pass 12:30"),
        ("diameter=2", "between 4"),
        ("diameter=nan", "between 4"),
        ("diameter=12:300", "do not fit into 48 x 112 x 112"),
        ("diameter=a", "a number, or a range like 12:30"),
        ("diameter=1:2:3", "a range like 12:30"),
        ("diameter=12,diamter=3", "did you mean diameter"),
        ("anisotropy=0.5", "between 1 and 100"),
        ("diameter=9,anisotropy=8", "at most 1.1 planes deep.*anisotropy up to 3.6"),
        ("ndim=2,anisotropy=2", "has no meaning in 2D"),
        ("ndim=4", "2 or 3 axes"),
        ("shape=48x48", "pass 3 sizes"),
        ("haze=2", "a share, from 0 to 1"),
        ("haze=0:1", "pass one number"),
        ("dense=-1", "frequency"),
        ("dense=0,sparse=0,cluster=0,shell=0,sheet=0", "are all 0"),
        ("diameter=", "not like diameter=12:30"),
        ("diameter", "diameter: No such file"),
        ("", "settings are empty"),
        ("shape=1x64x64", "sizes from 8 on"),
        ("shape=1000000x1000000x1000000", "drawn in memory"),
        ({"haze": "much"}, "pass one number"),
        (["diameter"], "settings are a list"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(stated: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_settings(stated)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("diamter: 12", "did you mean diameter"),
        ("[1, 2]", "holds no settings"),
        ("{", "neither YAML nor JSON"),
        ("diameter: {a: 1}", "a range like 12:30"),
        ("1: 2", "choose from"),
        ("!!python/object/apply:os.system [ls]", "neither YAML nor JSON"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_written_volumes_are_those_of_the_seed_and_can_be_trained_on(tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    images = es.synthesise(out, 3, settings=SMALL, seed=2)
    pairs = find_pairs(out / "images", out / "masks")
    assert [pair.name for pair in pairs] == [path.stem for path in images]
    expected = draw_volume(SMALL, 2, 1)
    assert (pairs[1].image.data.compute() == expected.image).all()
    assert (pairs[1].mask.data.compute() == expected.labels).all()
    assert read_settings(out / "settings.yaml") == SMALL


def test_the_command_writes_volumes_and_replaces_none_unasked(tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["synthesise", *map(str, arguments)])

    out = tmp_path / "drawn"
    made = run(out, "--count", 3, "--ndim", 2, "--settings", "shape=48x48,diameter=8:12", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["count"] == 3
    refused = run(out, "--count", 1, "--ndim", 2)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    again = run(out, "--count", 1, "--ndim", 2, "--settings", "shape=48x48", "--overwrite")
    assert again.exit_code == 0, again.output
    assert [path.name for path in sorted((out / "images").iterdir())] == ["0000.tif"]
    assert run(tmp_path / "a" / "b").exit_code == 2
    assert run(tmp_path / "c", "--settings", "diameter=9:8").stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"diameter": 12}, r"two numbers, such as \(12, 30\)"),
        ({"haze": "a"}, "a share"),
        ({"dense": None}, "a frequency"),
        ({"anisotropy": (2,)}, "two numbers"),
    ],
)
def test_settings_made_in_python_are_checked_as_well(values: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SynthesisSettings(**values)


def test_the_guide_names_every_setting() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "synthetic.md").read_text()
    assert [name for name in names() if f"`{name}`" not in guide] == []


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(EmbedSegError, match="is a file"):
        es.synthesise(tmp_path / "f", 1)


def test_fewer_volumes_replace_more_and_no_file_of_the_user(tmp_path: Path) -> None:
    es.synthesise(tmp_path, 3, settings=FLAT)
    own = [tmp_path / kind / name for kind in ("images", "masks") for name in OWN]
    for file in own:
        file.write_bytes(b"mine")
    es.synthesise(tmp_path, 1, settings=FLAT, overwrite=True)
    assert [file.read_bytes() for file in own] == [b"mine"] * len(own)
    for kind in ("images", "masks"):
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == ["0000.tif", *OWN]


OWN = ["0007.tif", "20240512.tif", "20240512_embryo.tif"]
"""Names like those of volumes, of which the first two do not continue their numbers."""


def test_older_volumes_stay_until_the_new_ones_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    es.synthesise(tmp_path, 2, settings=FLAT)

    def full(*_: object) -> SyntheticVolume:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedseg_large.synthesis.files.draw_volume", full)
    with pytest.raises(EmbedSegError, match="No space left"):
        es.synthesise(tmp_path, 1, settings=FLAT, seed=1, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["0000.tif", "0001.tif"]


def test_settings_of_the_user_are_replaced_only_if_that_is_asked(tmp_path: Path) -> None:
    own = tmp_path / "settings.yaml"
    own.write_text("mine: 1\n")
    with pytest.raises(UsageError, match=r"settings\.yaml exists; .* --overwrite"):
        es.synthesise(tmp_path, 1, settings=FLAT)
    assert own.read_text() == "mine: 1\n"
    assert list(tmp_path.iterdir()) == [own]
    es.synthesise(tmp_path, 1, settings=FLAT, overwrite=True)
    assert read_settings(own) == FLAT


def test_settings_that_cannot_be_written_leave_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    es.synthesise(tmp_path, 1, settings=FLAT)

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(EmbedSegError, match="No space left"):
        es.synthesise(tmp_path, 1, settings=SMALL, overwrite=True)
    assert read_settings(tmp_path / "settings.yaml") == FLAT
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_the_short_form_may_be_longer_than_the_name_of_a_file() -> None:
    wide = ",".join(f"{name}=0.2" for name in ("nucleoli", "haze", "debris")) + ",haze=0.200" * 40
    assert len(wide) > 255
    assert read_settings(wide).haze == 0.2
