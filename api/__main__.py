"""``python -m api``: the control plane on uvicorn, stopped gracefully by SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api.app import create_app
from api.gate import is_loopback
from perdure.assembly import Assembly, assemble
from perdure.settings import Settings

EXIT_MISCONFIGURED = 2
GRACE_SECONDS = 5  # for requests in flight; streams end within a second of the order to stop
KEEP_ALIVE_SECONDS = 75  # longer than clients and proxies keep idle connections: they close first


class Server(uvicorn.Server):
    """Tells the streams to end as soon as the process is asked to, and prints where it listens."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                print(f"api ready on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"bad settings: {error}", file=sys.stderr)
        return EXIT_MISCONFIGURED
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if not is_loopback(settings.api_host):
        print(
            f"refusing to start: PERDURE_API_HOST is {settings.api_host!r}, which others can reach, and there are no "
            "API keys. Bind to 127.0.0.1 and put an authenticating proxy before it.",
            file=sys.stderr,
        )
        return EXIT_MISCONFIGURED

    failures: list[Exception] = []

    async def factory() -> Assembly:
        try:
            return await assemble(settings)
        except Exception as error:
            failures.append(error)
            raise

    app = create_app(
        factory,
        request_bytes_max=settings.limits.request_bytes_max,
        import_bytes_max=settings.limits.import_bytes_max,
        hosts=settings.api_hosts,
    )
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        http="httptools",
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False,
    )
    server = Server(config, app)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a graceful stop
        server.run()
    for failure in failures:
        print(f"the API cannot start: {failure}", file=sys.stderr)
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
