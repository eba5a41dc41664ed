"""A caller of the API: one connection, one question after the other, every latency kept."""

from __future__ import annotations

import http.client
import queue
import threading
import time
from urllib.parse import urlsplit

_TIMEOUT = 10.0
_WAITING = 100


class Caller:
    """Asks for predictions in a thread of its own.

    Args:
        url: of the API.
        model: that is asked.
    """

    def __init__(self, url: str, model: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)
        self._path = f"/v1/models/{model}/predict"
        self._questions: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self.latencies: list[float] = []
        """Milliseconds from sending a question to having its answer."""
        self.failed: list[str] = []
        """What came instead of an answer."""
        self._thread = threading.Thread(target=self._run, name="caller", daemon=True)
        self._thread.start()

    def ask(self, event: bytes) -> None:
        """Asks about an event, unless too many questions are waiting."""
        if not self._questions.full():
            self._questions.put_nowait(event)

    def stop(self) -> None:
        """Waits for the answer in hand and ends; harmless when repeated."""
        if self._thread.is_alive():
            self._questions.put(None)
            self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while (event := self._questions.get()) is not None:
            began = time.perf_counter()
            try:
                self._connection.request("POST", self._path, event, {"content-type": "application/json"})
                answer = self._connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                self._connection.close()  # the next request opens it again
                continue
            if answer.status == http.HTTPStatus.OK:
                self.latencies.append((time.perf_counter() - began) * 1000)
            else:
                self.failed.append(f"{answer.status}: {body.decode(errors='replace')[:200]}")
