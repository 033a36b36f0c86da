"""A server that is not a ZeroMQ peer, or pretends to be one."""

from __future__ import annotations

import contextlib
import socket
import threading


class TalkingServer:
    """Says the same to everybody, one after the other, and hears them out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self.requests = 0
        self._client = self._listener
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            self.requests += 1
            with self._client, contextlib.suppress(OSError):
                self._client.sendall(self._data)
                self._hear()

    def _hear(self) -> None:
        while self._client.recv(65_536):
            pass

    def close(self) -> None:
        for open_socket in (self._listener, self._client):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
