"""A scene on localhost: a built-in page, and the stores for neuroglancer.

::

    /KEY/                the page
    /KEY/scene.json      what it can show
    /KEY/plane           ?axis=z&index=10&labels=nuclei: a PNG
    /KEY/data/0/...      files of the image's store; data/1/... for labels stored elsewhere

Only this machine is served, and only requests with a local host name, so that no web site can reach
in under its own name; only neuroglancer's site may read the responses. Other users of the machine
do not know the key, which is generated for every site.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.routing
import tornado.web

from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.storage.connection import is_remote
from embedseg_large.viewing import neuroglancer
from embedseg_large.viewing.planes import Planes, Style, Wanted
from embedseg_large.viewing.scene import Layer, Scene

HOST = "127.0.0.1"
_LOCAL_NAMES = r"^(127\.0\.0\.1|localhost)$"
_STYLES: dict[str, Style] = {"outlines": "outlines", "filled": "filled"}


@dataclass(frozen=True)
class Site:
    """What is served."""

    scene: Scene
    title: str
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    planes: Planes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "planes", Planes(self.scene))

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Stores whose files are served: the image's, and those of labels stored elsewhere."""
        found: list[str] = []
        for layer in (self.scene.image, *self.scene.labels):
            path = layer.path
            is_inside = any(path.startswith(f"{folder}/") for folder in found)
            if not is_remote(path) and Path(path).is_dir() and not is_inside:
                found.append(path)
        return tuple(found)

    def url_of(self, layer: Layer, base: str) -> str:
        """The URL at which a browser finds the files of a layer."""
        for number, folder in enumerate(self.folders):
            if layer.path == folder or layer.path.startswith(f"{folder}/"):
                return f"{base}/data/{number}{layer.path[len(folder) :]}"
        return layer.finest.name

    def link(self, base: str) -> str | None:
        """A link to neuroglancer, if it can read the image."""
        return neuroglancer.link(self.scene, lambda layer: self.url_of(layer, base))

    def describe(self, base: str) -> dict[str, Any]:
        """The data of the page."""
        planes, volume = self.planes, self.scene.image.finest
        sizes = {axis: planes.panel(axis) for axis in planes.cut_axes()}
        return {
            "title": self.title,
            "axes": planes.axes,
            "shape": list(planes.shape),
            "full_shape": list(volume.spatial_shape),
            "voxel_size": None if volume.voxel_size is None else list(planes.voxel_size),
            "origin": list(planes.origin),
            "planes": {a: {"width": p.width, "height": p.height} for a, p in sizes.items()},
            "channels": len(self.scene.image.channels),
            "timepoints": volume.n_timepoints,
            "labels": [layer.name for layer in self.scene.labels],
            "neuroglancer": self.link(base),
        }


def application(site: Site) -> tornado.web.Application:
    """The pages of a site, under local names only."""
    about = {"site": site}
    rules: list[Any] = [
        (rf"/{site.key}/", _Page),
        (rf"/{site.key}/scene\.json", _Description, about),
        (rf"/{site.key}/plane", _Plane, about),
        *(
            (rf"/{site.key}/data/{number}/(.*)", _Files, {"path": folder})
            for number, folder in enumerate(site.folders)
        ),
    ]
    local = tornado.routing.HostMatches(_LOCAL_NAMES)
    return tornado.web.Application([(local, rules)], log_function=_say_nothing)


def _say_nothing(_: tornado.web.RequestHandler) -> None:
    """Do not log requests, which are of no interest to the viewer of a page."""


async def serve(site: Site, port: int, ready: Callable[[str], None]) -> None:
    """Serve a site until the task is cancelled.

    Parameters
    ----------
    site
        What to serve.
    port
        TCP port; 0 for any free one.
    ready
        Called with the address once the server responds.

    Raises
    ------
    UsageError
        If the port is taken, or may not be used.
    """
    try:
        sockets = tornado.netutil.bind_sockets(port, HOST)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"port {port} cannot be used ({getattr(error, 'strerror', None) or error}); choose "
            "another one with --port, or leave it out"
        ) from error
    server = tornado.httpserver.HTTPServer(application(site))
    server.add_sockets(sockets)
    try:
        ready(f"http://{HOST}:{sockets[0].getsockname()[1]}/{site.key}/")
        await asyncio.Event().wait()
    finally:
        server.stop()
        await server.close_all_connections()


class _Page(tornado.web.RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(files("embedseg_large.viewing").joinpath("page.html").read_bytes())


class _Description(tornado.web.RequestHandler):
    def initialize(self, site: Site) -> None:
        self._site = site

    def get(self) -> None:
        self.finish(self._site.describe(f"http://{self.request.host}/{self._site.key}"))


class _Plane(tornado.web.RequestHandler):
    def initialize(self, site: Site) -> None:
        self._site = site

    async def get(self) -> None:
        try:
            wanted = self._wanted()
            loop = tornado.ioloop.IOLoop.current()
            png = await loop.run_in_executor(None, self._site.planes.png, wanted)
        except (ValueError, EmbedSegError) as error:
            self.set_status(400)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error))
            return
        self.set_header("Content-Type", "image/png")
        self.set_header("Cache-Control", "no-cache")
        self.finish(png)

    def _wanted(self) -> Wanted:
        """Read the query."""
        style = self.get_argument("style", "outlines")
        if style not in _STYLES:
            raise UsageError(f"no style {style!r}, there are {', '.join(_STYLES)}")
        return Wanted(
            axis=self.get_argument("axis"),
            index=int(self.get_argument("index", "0")),
            timepoint=int(self.get_argument("timepoint", "0")),
            channel=int(self.get_argument("channel", "0")),
            labels=self.get_argument("labels", ""),
            style=_STYLES[style],
        )


class _Files(tornado.web.StaticFileHandler):
    """Files of a store, whole or in part, for pages of neuroglancer."""

    def set_default_headers(self) -> None:
        """Let neuroglancer's pages read them, though they come from this machine."""
        self.set_header("Access-Control-Allow-Origin", neuroglancer.SITE)
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        self.set_header("Access-Control-Allow-Headers", "Range")
        self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_header("Access-Control-Expose-Headers", "Content-Length, Content-Range, ETag")

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        """Distinguish versions of a file without reading it: shards may be large."""
        about = Path(abspath).stat()
        return f"{about.st_size:x}-{about.st_mtime_ns:x}"

    def options(self, path: str) -> None:  # noqa: ARG002
        """Answer the preflight request of a browser."""
        self.set_status(204)
        self.finish()
