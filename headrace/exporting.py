"""Metrics for Prometheus, on a loopback port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server

from .errors import ServiceFailed


@contextlib.contextmanager
def exported(registry: CollectorRegistry, port: int) -> Iterator[None]:
    """Shows a registry at `http://127.0.0.1:<port>/metrics`; with port 0 nowhere.

    Raises:
        ServiceFailed: the port is taken.
    """
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ServiceFailed(
            f"metrics cannot be shown at 127.0.0.1:{port}",
            where="--metrics-port",
            why=error.strerror or str(error),
            fix="give another port, or end what listens there",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
