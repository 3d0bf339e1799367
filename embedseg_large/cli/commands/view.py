"""``embedseg-large view``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedseg_large.cli.console import print_facts, reported, stop_on_sigterm
from embedseg_large.storage.connection import is_remote, shown

if TYPE_CHECKING:
    from embedseg_large.viewing.scene import Scene


@reported("stopped")
def view(
    store: Annotated[str, typer.Argument(help="Image, or its labels: STORE/labels/NAME.")],
    labels: Annotated[
        str | None,
        typer.Option(help="Name of the labels, or path of another label group. Default: all."),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="C", help="The only channel to show, by number or name. Default: all."
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Letters of the image's axes, if neither it nor the labels name them."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free port.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address of the page without opening it.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Serve the page even if napari is installed.")
    ] = False,
) -> None:
    """View an image and its labels in napari if installed, else in the browser."""
    from embedseg_large.viewing import napari_window
    from embedseg_large.viewing.scene import open_scene

    scene = open_scene(store, labels, axes, channel)
    if not web and napari_window.is_available():
        napari_window.show(scene, shown(store))
    elif is_remote(scene.image.path):
        _print_link(scene)
    else:
        _serve(scene, port, opens=not no_browser)


def _print_link(scene: Scene) -> None:
    """Print a neuroglancer link for a store that any browser can read."""
    from embedseg_large.errors import VolumeError
    from embedseg_large.viewing.neuroglancer import VERSIONS, link

    found = link(scene, lambda layer: layer.finest.name)
    if found is None:
        raise VolumeError(
            f"{scene.image.finest.name}: neuroglancer reads OME-Zarr {' and '.join(VERSIONS)}; "
            "install napari, or convert a local copy"
        )
    print_facts(None, {"store": scene.image.finest.name})
    typer.echo(found)  # in one line, however long: a wrapped link does not open


def _serve(scene: Scene, port: int, *, opens: bool) -> None:
    """Serve a scene until Ctrl-C."""
    import asyncio
    import logging
    import webbrowser

    from embedseg_large.viewing.server import Site, serve

    name = scene.image.finest.name
    site = Site(scene, name.rstrip("/").rpartition("/")[2])

    def ready(url: str) -> None:
        print_facts(None, {"store": name, "page": url, "to end": "Ctrl-C"})
        if opens:
            webbrowser.open(url)

    stop_on_sigterm()
    logging.getLogger("tornado.general").setLevel(
        logging.ERROR
    )  # wrong requests have been answered
    try:
        asyncio.run(serve(site, port, ready))
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
