"""``python -m perdure.providers.scripted --port 8484``: serve the scripted vendors until stopped."""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
import sys
from pathlib import Path

import uvicorn

from perdure.providers.scripted import ScriptError, create_app

BACKLOG = 2048  # a burst of workers that all start to ask at once
STOP_SECONDS = 1  # hanging answers are part of the job: do not wait for them on the way out


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perdure.providers.scripted", description="Scripted model vendors.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--scripts", type=Path, help="folder or file of your scripts; the shipped ones stay visible")
    parser.add_argument("--log", type=Path, help="file that gets a JSON line per happening")
    parser.add_argument("--require-key", action="store_true", help="answer 401 to requests without an API key")
    options = parser.parse_args()
    try:
        app = create_app(options.scripts, options.log, require_key=options.require_key)
    except ScriptError as error:
        print(error, file=sys.stderr)
        return 2
    logging.getLogger("uvicorn.error").addFilter(_not_a_cut)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_SECONDS, backlog=BACKLOG
    )  # fmt: skip
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    host, port = listener.getsockname()[:2]
    print(f"Scripted vendors on http://{host}:{port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. OSError.

    asyncio switches Nagle's algorithm off only for sockets that name TCP as their protocol, which
    ``socket.create_server`` does not do; with it on, an answer of several events takes 40 ms.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)  # from here on who connects is served, if only a moment later
    return listener


def _not_a_cut(record: logging.LogRecord) -> bool:
    """A ``cut`` leaves an answer unfinished on purpose; the server's complaint about it is noise."""
    return "without completing response" not in record.getMessage()


if __name__ == "__main__":
    raise SystemExit(main())
