"""Pairs of keys in files, as --curve-keygen makes them, and the options that name them."""

from __future__ import annotations

import shutil
from pathlib import Path

import zmq

from zmqlines.keys import certificate


class Keyring:
    """A folder with pairs, and one in it with the public keys of those who may speak."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clients = folder / "clients"
        self.clients.mkdir(parents=True)
        for name in ("shipper", "collector", "stranger", "another"):
            self.make(name)
        self.let_in("shipper")
        self.let_in("another")

    def make(self, name: str) -> None:
        public, secret = zmq.curve_keypair()
        self.public(name).write_bytes(certificate(public))
        self.secret(name).touch(0o600)
        self.secret(name).write_bytes(certificate(public, secret))

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def secret(self, name: str) -> Path:
        return self.folder / f"{name}.key_secret"

    def let_in(self, name: str) -> None:
        shutil.copy(self.public(name), self.clients)

    def turn_away(self, name: str) -> None:
        (self.clients / self.public(name).name).unlink()

    def to_bind(self, name: str = "collector") -> list[str]:
        """The options of who binds."""
        return ["--curve-key", str(self.secret(name)), "--curve-clients", str(self.clients)]

    def to_connect(self, name: str = "shipper", server: str = "collector") -> list[str]:
        """The options of who connects."""
        keys = str(self.secret(name)), str(self.public(server))
        return ["--curve-key", keys[0], "--curve-server-key", keys[1]]
