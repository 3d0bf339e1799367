"""What tests of a module share: a cluster of two processes, an S3 server, a web server."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tornado.httpserver
import tornado.netutil
import tornado.web
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.runs.dask.cluster_file import LocalSettings
from embedseg_large.runs.dask.clusters import cluster_client
from embedseg_large.testing.oracle import OracleNetwork

BUCKET = "embryos"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A Dask cluster of two worker processes."""
    with cluster_client(LocalSettings(workers=2), "cpu") as client:
        yield client


@dataclass
class Faults:
    """What a server does wrong; counts requests."""

    every: int = 0
    """Each request of that number fails; 0 for none."""
    status: str = "503 Service Unavailable"
    late: bool = False
    """Whether the failing request is done before it is answered with an error."""
    denied: str = ""
    """Begin of the paths of objects that nobody may read."""
    requests: list[str] = field(default_factory=list)

    def around(self, app: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            if self.denied and environ["PATH_INFO"].startswith(self.denied):
                start("403 Forbidden", [("Content-Length", "0")])
                return []
            if not self.every or len(self.requests) % self.every:
                return app(environ, start)
            if self.late:
                list(app(environ, lambda *_: None))
            start(self.status, [("Content-Type", "text/plain"), ("Content-Length", "4")])
            return [b"oops"]

        return faulty


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, Faults]]:
    """An S3 server on this machine, and what it does wrong."""
    server = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server  # comes with moto

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    faults = Faults()
    app = server.DomainDispatcherApplication(server.create_backend_app)
    http = make_server("127.0.0.1", 0, faults.around(app), threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", faults
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def faults(s3_server: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """What the S3 server does wrong; the environment knows the way to it, and it is empty."""
    end_point, faults = s3_server
    faults.every, faults.status, faults.late = 0, "503 Service Unavailable", False
    faults.denied = ""
    for path in ("/moto-api/reset", f"/{BUCKET}"):
        method = "POST" if "reset" in path else "PUT"
        urlopen(Request(end_point + path, method=method)).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", end_point)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "5")
    monkeypatch.setenv("EMBEDSEG_SILENCE_SECONDS", "1")
    faults.requests.clear()
    yield faults
    faults.every, faults.denied = 0, ""


@dataclass
class Web:
    """A web server on a folder, and what it does wrong."""

    url: str = ""
    folder: Path = Path()
    every: int = 0
    hangs: bool = False
    ranges: bool = True
    """Whether parts of files can be asked for."""
    requests: int = 0

    async def misbehave(self, handler: tornado.web.RequestHandler) -> bool:
        self.requests += 1
        if not self.every or self.requests % self.every:
            return False
        if self.hangs:
            await asyncio.sleep(60)
        handler.set_status(503)
        return True


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "2")
    monkeypatch.setenv("EMBEDSEG_SILENCE_SECONDS", "0.7")
    about, ready, stop = Web(folder=tmp_path), threading.Event(), asyncio.Event()

    class Files(tornado.web.StaticFileHandler):
        async def get(self, path: str, include_body: bool = True) -> None:
            if not about.ranges:
                self.request.headers.pop("Range", None)
            if not await about.misbehave(self):
                await super().get(path, include_body)

    async def serve() -> None:
        server = tornado.httpserver.HTTPServer(
            tornado.web.Application([("/(.*)", Files, {"path": str(tmp_path)})])
        )
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        about.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        server.add_sockets(sockets)
        loops.append(asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    yield about
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def victim() -> ModuleType:
    """The program `victim.py`, whose runs others repeat."""
    file = Path(__file__).with_name("victim.py")
    spec = importlib.util.spec_from_file_location("victim", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def image(victim: ModuleType) -> NDArray[Any]:
    """The embryo of `victim.py`: its own true labels."""
    labels: NDArray[Any] = victim.embryo()
    return labels


@pytest.fixture(scope="module")
def network(victim: ModuleType, image: NDArray[Any]) -> OracleNetwork:
    """The oracle of `victim.py` for that embryo."""
    oracle: OracleNetwork = victim.network(image)
    return oracle


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory,
    victim: ModuleType,
    image: NDArray[Any],
    network: OracleNetwork,
) -> NDArray[Any]:
    """Labels of an undisturbed run in this process."""
    out = tmp_path_factory.mktemp("expected") / "out.zarr"
    options = victim.OPTIONS | {"intensity_range": (0, 1)}
    return np.asarray(es.segment(image, network, output=out, **options).labels)
