"""Damage files in every way and give them to the commands: an error of ours, or success.

    python scripts/fuzz.py [KIND ...] --count 1000 --seed 0

Each mutation is a function of kind, seed and number; ``--first N --count 1`` repeats one. Prints
JSON: mutations, errors of ours, successes and all else by kind, and the peak of the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedseg_large.errors import EmbedSegError
from embedseg_large.testing.mutations import Rng, mutated

SECONDS = 5.0
"""Of CPU time that a command may take."""
MEBIBYTES = 400
"""That a command may take beyond what the process had before it."""
TILES = 50
"""From which a conversion is not awaited."""
LIMIT = 24
"""GiB of addresses of the process."""

Command = Callable[[], object]


@dataclass(kw_only=True)
class Kind:
    """Files of one kind, and what is done with them."""

    files: list[Path]
    """One of these is damaged at a time."""
    commands: list[Command]
    """One of these is given it."""


@dataclass
class Tally:
    """What came of the mutations of a kind."""

    mutations: int = 0
    errors: int = 0
    successes: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    """All else: what, and where of ours it was raised; its first number behind it."""
    undamaged: Counter[str] = field(default_factory=Counter)
    """What came of the commands before."""
    slowest: float = 0.0
    peak: int = 0
    """MiB beyond what the process had before."""


class TooSlow(BaseException):
    """A command did not end."""


def main() -> int:
    """Fuzz; 1 if anything but an error of ours or success came."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=100, help="mutations of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop a kind after so many seconds")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks of all else")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT << 30, LIMIT << 30))
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)
        for name in asked.kinds or KINDS:
            place = Path(folder, name)
            place.mkdir()
            tally = fuzz(
                KINDS[name](place),
                lambda i, name=name: np.random.default_rng([asked.seed, *name.encode(), i]),
                range(asked.first, asked.first + asked.count),
                asked.seconds,
                asked.verbose,
            )
            told[name] = vars(tally)
            shutil.rmtree(place)
    told["peak of the process (MiB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return int(any(one["foreign"] for one in told.values() if isinstance(one, dict)))


def fuzz(
    kind: Kind,
    generator: Callable[[int], Rng],
    numbers: range,
    seconds: float | None = None,
    verbose: bool = False,
) -> Tally:
    """Try mutations of a kind."""
    tally = Tally()
    for command in kind.commands:  # and so imports and caches do not count later
        tally.undamaged[outcome(command)] += 1
    began = time.monotonic()
    for number in numbers:
        if seconds is not None and time.monotonic() - began > seconds:
            break
        rng = generator(number)
        file = kind.files[rng.integers(len(kind.files))]
        command = kind.commands[rng.integers(len(kind.commands))]
        before = file.read_bytes()
        file.write_bytes(mutated(rng, before))
        memory, clock = _settled(), time.process_time()
        what = outcome(command, verbose)
        took, grown = time.process_time() - clock, max(0, _peak() - memory) >> 20
        file.write_bytes(before)
        tally.mutations += 1
        tally.slowest, tally.peak = max(tally.slowest, took), max(tally.peak, grown)
        if took > SECONDS:
            what = f"{took:.0f} s of CPU ({what})"
        elif grown > MEBIBYTES:
            what = f"{grown} MiB ({what})"
        if what == "error":
            tally.errors += 1
        elif what == "success":
            tally.successes += 1
        else:
            known = next((k for k in tally.foreign if k.startswith(f"{what} #")), None)
            tally.foreign[known or f"{what} #{number} {file.name}"] += 1
    return tally


def outcome(command: Command, verbose: bool = False) -> str:
    """Run a command: success, error (one of ours, in one line), or what it was."""
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(60)
    try:
        with _quiet():
            command()
    except EmbedSegError as error:
        text = str(error)
        return "error" if "geheim" not in text else f"a password in: {text}"
    except (Exception, TooSlow) as error:
        if verbose:
            traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:100]!r} {_where(error)}"
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return f"panic {_where(error)}"
    finally:
        signal.alarm(0)
    return "success"


def _stop(*_: object) -> None:
    raise TooSlow


def _where(error: BaseException) -> str:
    """The innermost place of ours that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "embedseg_large/" in f.filename]
    return f"{ours[-1].filename.rpartition('embedseg_large/')[2]}:{ours[-1].lineno}" if ours else ""


def _settled() -> int:
    """Bytes in memory; the peak begins anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """As a terminal that knows UTF-8 and nothing else."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("ignore")
        yield
        out.flush()


# Commands ---------------------------------------------------------------------------------------


def cli(*words: object) -> Command:
    """A command of the command line; an exit code for a mistake is an error of ours."""

    def run() -> None:
        import typer

        from embedseg_large.cli.app import app

        code = typer.main.get_command(app).main([str(w) for w in words], standalone_mode=False)
        said = sys.stderr
        said.flush()
        text = said.buffer.getvalue().decode() if isinstance(said, io.TextIOWrapper) else ""
        if code in (1, 2):
            lines = [line for line in text.splitlines() if line.startswith("error:")]
            if len(lines) != 1 or "Traceback" in text or "geheim" in text:
                raise AssertionError(f"exit {code}: {text[-200:]}")
            raise EmbedSegError("told")

    return run


def dry_run(image: Path, network: Any, **options: Any) -> Command:
    """What `segment --dry-run` does, with another network."""

    def run() -> None:
        from embedseg_large.segmentation.options import SegmentOptions
        from embedseg_large.segmentation.request.estimate import estimate_of
        from embedseg_large.segmentation.request.prepare import prepare

        asked = SegmentOptions.of(options, "segment")
        estimate_of(prepare(image, network, "others", asked)).as_dict()

    return run


class UnderWayError(Exception):
    """A command shows its progress: from here it takes as long as the declared size."""


class Patience:
    """Ends a command that begins far more tiles than the undamaged files have."""

    def begin(self, stage: str, tiles: int) -> None:
        """A stage begins."""
        if tiles > TILES:
            raise UnderWayError(f"{stage}: {tiles}")

    def advance(self, stage: str) -> None:
        """A tile is done."""


def converted(source: Path) -> Command:
    """`convert` to a place that is removed again, unless it begins an enormous copy."""
    out = source.with_name("out.ome.zarr")

    def run() -> None:
        import embedseg_large as es

        shutil.rmtree(out, ignore_errors=True)
        with contextlib.suppress(UnderWayError):
            es.convert(source, out, watcher=Patience())

    return run


# Kinds ------------------------------------------------------------------------------------------


def _labels() -> Any:
    labels = np.zeros((12, 16, 16), np.uint16)
    labels[2:7, 2:8, 2:8], labels[6:11, 9:15, 8:15] = 1, 2
    return labels


def _store(folder: Path, version: str) -> tuple[Path, Any]:
    """An image with labels of a run, its instances and a table."""
    import embedseg_large as es
    from embedseg_large.conversion.plan import write_image
    from embedseg_large.testing.oracle import OracleNetwork

    path = folder / "image.ome.zarr"
    write_image(path, _labels(), "zyx", (1.0, 0.5, 0.5), ngff_version=version, chunks=(8, 8, 8))
    network = OracleNetwork.of(_labels())
    es.segment(path, network, intensity_range=(0, 1), object_diameter=None)
    es.measure(path, into_store=True)
    document = path / ("zarr.json" if version == "0.5" else ".zattrs")
    about = json.loads(document.read_bytes())
    ome = about["attributes"]["ome"] if version == "0.5" else about
    ome["omero"] = {
        "channels": [{"label": "DAPI", "color": "0000FF", "window": {"start": 0, "end": 9}}]
    }
    document.write_text(json.dumps(about))
    return path, network


def _documents(folder: Path) -> list[Path]:
    names = ("zarr.json", ".zattrs", ".zarray", ".zgroup", ".zmetadata")
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name in names)


def _image(version: str) -> Callable[[Path], Kind]:
    def make(folder: Path) -> Kind:
        path, network = _store(folder, version)
        metadata = [p for p in _documents(path) if "labels" not in p.parts]
        chunks = [p for p in (path / "0").rglob("*") if p.is_file() and p not in metadata][:2]
        return Kind(
            files=[*metadata * 3, *metadata[:2] * 6, *chunks],
            commands=[
                cli("info", path),
                cli("info", path, "--json", "--level", 1),
                dry_run(path, network, intensity_range=(0, 1), overwrite=True),
                dry_run(path, network),
                converted(path),
                cli("measure", path),
                cli("evaluate", path / "labels" / "nuclei", path / "0"),
                cli("status", path),
            ],
        )

    return make


def _published(version: str) -> Callable[[Path], Kind]:
    def make(folder: Path) -> Kind:
        path, network = _store(folder, version)
        labels = path / "labels" / "nuclei"
        metadata = [p for p in _documents(path) if "labels" in p.parts or "tables" in p.parts]
        main = [p for p in (labels / "zarr.json", labels / ".zattrs") if p.exists()]
        chunks = [p for p in labels.rglob("*") if p.is_file() and p not in metadata]
        return Kind(
            files=[*main * 12, *metadata, *chunks[:4]],
            commands=[
                cli("info", labels),
                cli("info", path),
                cli("measure", path),
                cli("measure", labels, "--json"),
                cli("report", path, "--out", folder / "report.html"),
                cli("evaluate", labels, path / "0"),
                cli("status", path),
                dry_run(path, network, intensity_range=(0, 1), overwrite=True),
                lambda: _scene(path),
            ],
        )

    return make


def _scene(path: Path) -> None:
    from embedseg_large.viewing.scene import contrasts, open_scene

    scene = open_scene(str(path))
    list(contrasts(scene.image, scene.labels))


def _instances(folder: Path) -> Kind:
    path, _ = _store(folder, "0.5")
    labels = path / "labels" / "nuclei"
    files = [p for p in labels.glob("instances*/**/*") if p.is_file()]
    documents = [p for p in files if p.name == "zarr.json"]
    return Kind(
        files=[*documents * 3, *files],
        commands=[
            cli("measure", path),
            cli("measure", labels),
            cli("report", labels, "--out", folder / "report.html"),
        ],
    )


def _plate(folder: Path) -> Kind:
    path, network = _store(folder, "0.4")
    plate = folder / "plate.ome.zarr"
    well = plate / "A" / "1"
    well.mkdir(parents=True)
    path.rename(well / "0")
    for group in (plate, plate / "A", well):
        (group / ".zgroup").write_text('{"zarr_format": 2}')
    named = {"rows": [{"name": "A"}], "columns": [{"name": "1"}], "version": "0.4"}
    one = {"path": "A/1", "rowIndex": 0, "columnIndex": 0}
    (plate / ".zattrs").write_text(json.dumps({"plate": {**named, "wells": [one]}}))
    (well / ".zattrs").write_text(json.dumps({"well": {"images": [{"path": "0"}]}}))
    files = [p for group in (plate, well, well / "0") for p in group.iterdir() if p.is_file()]
    return Kind(
        files=files,
        commands=[
            *(cli("info", p) for p in (plate, well, well / "0")),
            cli("measure", plate),
            cli("status", plate),
            cli("convert", plate, folder / "out.zarr"),
            dry_run(plate, network),
        ],
    )


def _tiff(folder: Path) -> Kind:
    import tifffile

    from embedseg_large.testing.oracle import OracleNetwork

    voxels, files = _labels(), []

    def write(name: str, data: Any, **options: Any) -> None:
        files.append(folder / name)
        tifffile.imwrite(files[-1], data, **options)

    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.0}
    write("ome.ome.tif", voxels, metadata={"axes": "ZYX", **sizes})
    write(
        "imagej.tif", voxels, imagej=True, resolution=(2, 2), metadata={"spacing": 1, "unit": "um"}
    )
    write("plain.tif", voxels)
    write("big.tif", voxels, bigtiff=True, compression="zlib", tile=(16, 16))
    write("motorola.tif", voxels[2], byteorder=">", compression="lzw")
    write("shaped.tif", np.stack([voxels, voxels]), metadata={"axes": "CZYX"})
    commands: list[Command] = []
    network = OracleNetwork.of(voxels)
    for path in files:
        commands += [
            cli("info", path),
            cli("info", path, "--json", "--series", 0),
            converted(path),
            cli("measure", path, "--axes", "zyx"),
            dry_run(path, network, output=folder / "labels.zarr"),
            cli("evaluate", path, path),
        ]
    return Kind(files=files, commands=commands)


def _png(folder: Path) -> Kind:
    from PIL import Image

    path = folder / "image.png"
    Image.fromarray(_labels()[3].astype(np.uint8)).save(path)
    return Kind(
        files=[path],
        commands=[
            cli("info", path),
            converted(path),
            cli("measure", path),
            cli("evaluate", path, path),
        ],
    )


def _model(folder: Path) -> Kind:
    from importlib.resources import files

    from embedseg_large.network.modelfile import read_model_file

    path = folder / "model.safetensors"
    data = (files("embedseg_large.models") / "nuclei-2d.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = folder / "header.json", data[8 + length :]
    header.write_bytes(data[8 : 8 + length])
    path.write_bytes(data)
    about = folder / "about.json"
    own = json.loads(header.read_bytes())["__metadata__"]["embedseg_large"]
    about.write_text(own)

    def put_together() -> None:
        """Damage of the parts becomes damage of the file, whose lengths may still be right."""
        text = header.read_bytes()
        if about.read_text(errors="replace") != own:
            found = json.loads(text)
            found["__metadata__"]["embedseg_large"] = about.read_text(errors="replace")
            text = json.dumps(found).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)

    def together(command: Command) -> Command:
        def run() -> None:
            put_together()
            command()

        return run

    return Kind(
        files=[header, about, about],
        commands=[together(lambda: read_model_file(path)), together(cli("info", path))],
    )


def _model_bytes(folder: Path) -> Kind:
    from importlib.resources import files

    from embedseg_large.network.checkpoint import load_model

    path = folder / "model.safetensors"
    path.write_bytes((files("embedseg_large.models") / "nuclei-2d.safetensors").read_bytes())
    return Kind(files=[path], commands=[lambda: load_model(path), cli("info", path)])


def _checkpoint(folder: Path) -> Kind:
    """A checkpoint of the original program, by file and by member of its archive."""
    import torch

    from embedseg_large.network.checkpoint import load_model
    from embedseg_large.network.erfnet import BranchedERFNet

    place = folder / "model"
    place.mkdir()
    weights, properties = place / "best_iou_model.pth", place / "data_properties.json"
    state = {f"module.{k}": v for k, v in BranchedERFNet(2, 1).state_dict().items()}
    torch.save({"model_state_dict": state, "epoch": 3}, weights)
    values: dict[str, float] = {"min_object_size": 5}
    for axis in "yx":
        values |= {f"grid_{axis}": 1024, f"pixel_{axis}": 1, f"avg_object_size_{axis}": 20}
        values |= {f"stdev_object_size_{axis}": 3}
    properties.write_text(json.dumps(values))
    pickled, repack = _members(weights, folder)

    def load() -> None:
        repack()
        load_model(place)

    return Kind(
        files=[weights, properties, properties, *pickled * 2], commands=[load, cli("info", place)]
    )


def _members(path: Path, folder: Path) -> tuple[list[Path], Command]:
    """The pickle of a file of torch as a file of its own, and what puts it back if it changed."""
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(n for n in contents if n.endswith("data.pkl"))
    pickled = folder / "data.pkl"
    pickled.write_bytes(contents[name])
    state = {"repacked": False}
    original = path.read_bytes()

    def repack() -> None:
        changed = pickled.read_bytes()
        if changed != contents[name]:
            with zipfile.ZipFile(path, "w") as archive:
                for each, data in contents.items():
                    archive.writestr(each, changed if each == name else data)
            state["repacked"] = True
        elif state["repacked"]:
            state["repacked"] = False
            path.write_bytes(original)

    return [pickled], repack


def _state(folder: Path) -> Kind:
    """The state of a training."""
    import torch

    from embedseg_large.training.state import TrainState, load_state, save_state

    path, facts = folder / "last.pt", json.dumps({"data": {"a": 1}, "settings": {"b": 2}})
    save_state(
        path,
        TrainState(
            network={"a": torch.zeros(3)},
            optimiser={"state": {}, "param_groups": [{"lr": 0.1}]},
            epoch=1,
            best=0.5,
            waiting=0,
            threads=1,
            random=torch.zeros(16, dtype=torch.uint8),
            facts=facts,
        ),
    )
    pickled, repack = _members(path, folder)

    def load() -> None:
        repack()
        load_state(path, facts).random_of(0)

    return Kind(files=[path, *pickled * 2], commands=[load])


_CLUSTERS = {
    "local.yaml": "kind: local\nworkers: 4\nthreads: 2\nmemory: 4GB\nwait: 30\n",
    "adapt.yaml": "kind: local\nadapt: {minimum: 1, maximum: 3}\n",
    "cuda.yaml": "kind: cuda\nworkers: 1\n",
    "slurm.yaml": (
        "kind: slurm\nworkers: 8\ncores: 4\nmemory: 32GB\nwalltime: '12:00:00'\ngpus: 1\n"
        "queue: gpu\naccount: '0123'\ndirectives:\n  - --nice=10\nprologue:\n  - module load cuda\n"
    ),
    "scheduler.yaml": "kind: scheduler\naddress: tcp://user:geheim@10.0.0.1:8786\n",
}


def _cluster(folder: Path) -> Kind:
    import yaml

    from embedseg_large.runs.dask.cluster_file import read_cluster_file

    files, commands = [], []
    for name, text in _CLUSTERS.items():
        files += [folder / name, folder / f"{name}.json"]  # YAML holds JSON
        files[-2].write_text(text)
        files[-1].write_text(json.dumps(yaml.safe_load(text)))
    for path in files:

        def read(path: Path = path) -> None:
            said = repr(read_cluster_file(path))
            if "geheim" in said:
                raise AssertionError(said)

        commands.append(read)
    return Kind(files=files, commands=[_each(commands)])


def _each(commands: list[Command]) -> Command:
    """All of these; the first error is the one."""

    def run() -> None:
        for command in commands:
            command()

    return run


def _run(folder: Path) -> Kind:
    """The folder of an unfinished run, and predictions that were kept."""
    import embedseg_large as es
    from embedseg_large.conversion.plan import write_image
    from embedseg_large.runs import lock as lock_module
    from embedseg_large.testing.oracle import OracleNetwork

    path = folder / "image.ome.zarr"
    write_image(path, _labels(), "zyx", (1.0, 0.5, 0.5), ngff_version="0.4")
    network = OracleNetwork.of(_labels(), tile=(8, 8, 8))
    options: dict[str, Any] = {"intensity_range": (0, 1)}
    kept = es.segment(path, network, "kept", keep_predictions=True, **options).summary[
        "predictions"
    ]
    chunk = next(p for p in sorted((path / "0").rglob("*"), reverse=True) if p.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(b"damaged")
    with contextlib.suppress(EmbedSegError):
        es.segment(path, network, "others", **options)
    chunk.write_bytes(whole)
    runs = [p for p in folder.iterdir() if p.name.endswith((".run", ".lock"))]
    files = [p for one in runs for p in one.rglob("*") if p.is_file()]
    documents = [p for p in Path(kept).rglob("*") if p.is_file() and p.suffix in (".json", ".npy")]
    lock_module.BEAT_SECONDS = 0.02  # a holder elsewhere is watched for some beats
    lock = folder / ".image.ome.zarr-others.lock" / "000001"
    lock.parent.mkdir(exist_ok=True)
    ended = {"host": os.uname().nodename, "pid": 2**22 + 1, "beats": 3, "token": "0"}
    ended["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    lock.write_text(json.dumps(ended))
    written = [p for p in files if "predictions" not in p.parts]
    journal = [p for p in written if "journal" in p.parts or p.name == "run.json"]

    def resumed() -> None:
        """The same command again, on what was damaged; then all is as before."""
        beside = folder.with_name("as-it-was")
        shutil.copytree(folder, beside)
        try:
            es.segment(path, network, "others", **options)
        finally:
            shutil.rmtree(folder)
            beside.rename(folder)

    return Kind(
        files=[*written, *journal * 4, lock, lock, *documents * 3],
        commands=[
            resumed,
            resumed,
            cli("status", path, "--labels", "others"),
            dry_run(path, network, from_predictions=kept, **options),
            dry_run(path, network, from_predictions=kept, object_diameter="auto", **options),
        ],
    )


_SETTINGS = {
    "synthesis.yaml": "shape: [16, 48, 48]\ndiameter: [8, 12]\nanisotropy: 2\n",
    "panel.yaml": "one:\n  images: images\n  masks: masks\n  object_diameter: 30\n",
}


def _settings(folder: Path) -> Kind:
    """Settings of synthetic volumes, and panels."""
    import yaml

    from embedseg_large.synthesis.reading import read_settings
    from embedseg_large.training.data.panel import read_panel

    files = []
    for name, text in _SETTINGS.items():
        for path, content in (
            (folder / name, text),
            (folder / f"j-{name}", json.dumps(yaml.safe_load(text))),
        ):
            path.write_text(content)
            files.append(path)
    return Kind(
        files=files,
        commands=[
            *(lambda p=p: read_settings(str(p)) for p in files if "syn" in p.name),
            *(lambda p=p: read_panel([p]) for p in files if "panel" in p.name),
        ],
    )


KINDS: dict[str, Callable[[Path], Kind]] = {
    "image of zarr v2": _image("0.4"),
    "image of zarr v3": _image("0.5"),
    "labels of zarr v2": _published("0.4"),
    "labels of zarr v3": _published("0.5"),
    "instances": _instances,
    "plate": _plate,
    "tiff": _tiff,
    "png": _png,
    "model header": _model,
    "model": _model_bytes,
    "checkpoint": _checkpoint,
    "training state": _state,
    "cluster file": _cluster,
    "run": _run,
    "settings": _settings,
}

if __name__ == "__main__":
    sys.exit(main())
