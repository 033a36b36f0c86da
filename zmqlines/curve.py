"""`--curve-…`: only who has a key that we know may speak, and nobody else can listen (RFC 26).

Whoever binds is the server of CURVE: it asks for the keys of those who connect, and they know its
own. Without a handler that libzmq can ask it lets everybody in; so ours is there before anything is
bound, and libzmq is told to let nobody in without one.

    who binds:     serve() --> Gate <-- libzmq asks about each key
    who connects:  join(), heard() --> refused: leave, come back after a pause
"""

from __future__ import annotations

import argparse
import os
import re
import time
from typing import Any

import zmq

import zmqpush
from zmqlines import keys
from zmqlines.zap import Gate

DOMAIN = b"zmqlines"  # of ZAP; without one, nobody is asked
SHORTEST_PAUSE_S = 2.0  # before a collector that has refused us is tried again
LONGEST_PAUSE_S = 60.0
RECONNECT_MS = 1000  # a wrong server key is seen as a cut only, after which libzmq tries again
SAY_AGAIN_S = 10.0  # between two lines about keys that are refused
MOST_TOLD = 1000  # keys that are remembered to have been refused
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
ANYBODY = "any"
LOOPBACK = re.compile(r"ipc:|tcp://(localhost|lo|127\.[0-9.]+|\[::1\]):")


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where they do not fit together, or something is missing."""
    if options.curve_keygen:
        return
    if not zmq.has("curve"):
        raise ValueError("--curve-key: this libzmq was built without CURVE")
    if not options.curve_key:
        raise ValueError("CURVE needs --curve-key FILE; --curve-keygen NAME makes one")
    for ends, doing, wanted, value in (
        (options.bind, "--bind", "--curve-clients DIR, or any", options.curve_clients),
        (options.connect, "--connect", "--curve-server-key KEY", options.curve_server_key),
    ):
        name = wanted.split()[0]
        if ends and not value:
            raise ValueError(f"CURVE with {doing} needs {wanted}")
        if value and not ends:
            raise ValueError(f"{name} is for {doing}")
    server_keys, servers = len(options.curve_server_key), len(options.connect)
    if server_keys > 1 and server_keys != servers:
        raise ValueError(
            f"--curve-server-key is given {server_keys} times for {servers} of --connect: "
            "one for all of them, or one for each"
        )


def say_exposed(endpoints: list[str], danger: str) -> None:
    """Say once what anyone can do who reaches the plain sockets that are bound to `endpoints`."""
    exposed = [endpoint for endpoint in endpoints if not LOOPBACK.match(endpoint)]
    if exposed:
        zmqpush.say(
            f"{' '.join(exposed)}: without --curve-key anyone who reaches it can {danger}, "
            "and nothing is encrypted"
        )


def open_curve(options: argparse.Namespace) -> Curve | None:
    """With the keys that `options` name; None where none are. Ends the program without them."""
    try:
        return Curve(options) if options.curve_key else None
    except ValueError as error:
        zmqpush.fail(str(error))


class Curve:
    """Our keys, whom we let in, and who has refused us."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises ValueError."""
        self._own = read(keys.read_own, "--curve-key", options.curve_key)
        server_keys = [
            read(keys.read_public, "--curve-server-key", word) for word in options.curve_server_key
        ]
        each = server_keys * (1 if len(server_keys) > 1 else len(options.connect))
        self._server_keys = dict(zip(options.connect, each))
        self._clients = Clients(options.curve_clients) if options.curve_clients else None
        self._gate = Gate(self._clients.lets_in) if self._clients else None
        self._told: set[str] = set()  # what was said once
        self._servers = {endpoint: Server() for endpoint in options.connect}

    # who binds

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Let only those in who may speak, at what `socket` binds next."""
        assert self._gate
        self._gate.open()
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret)
        socket.setsockopt(zmq.CURVE_SERVER, 1)

    def reload(self) -> None:
        """Look again whom to let in; those who are connected stay."""
        if self._clients:
            self._clients.reload()

    def close(self) -> None:
        """Let nobody in any more. The context of the sockets can end only after this."""
        if self._gate:
            self._gate.close()

    # who connects

    def join(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Know the server at `endpoint` by its key, where `socket` is connected to next."""
        socket.setsockopt(zmq.CURVE_SERVER, 0)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_keys[endpoint])
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)

    def heard(self, event: int, value: int, endpoint: str) -> None:
        """Note what the monitor tells, and say why a handshake has failed."""
        server = self._servers.get(endpoint)
        if not server:
            self._heard_client(event, value)
        elif event == zmq.EVENT_CONNECTED:
            server.is_met = server.is_final = False
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            server.is_met = True
            server.refusals = 0
        elif event & FAILED:
            server.is_final = event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            self._say_once(f"{endpoint} {self._why(event, value)}")

    def refusal_of(self, endpoint: str) -> Server | None:
        """The server at `endpoint`, if the connection to it had no handshake."""
        server = self._servers.get(endpoint)
        return server if server and not server.is_met else None

    def _why(self, event: int, value: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"has refused our key, {self._own.public.decode()}: it is not among its clients'"
        if value == zmqpush.MISMATCH:
            return "does not use CURVE: nothing is sent to it"
        return "has cut us off in the handshake: wrong --curve-server-key, or no CURVE there?"

    def _heard_client(self, event: int, value: int) -> None:
        if event != zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            return
        if value == zmqpush.MISMATCH:
            self.say_misfit()
        elif value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            ours = self._own.public.decode()
            self._say_once(
                f"a peer has gone without a handshake: its --curve-server-key is not ours, {ours}"
            )

    def say_misfit(self) -> None:
        """Somebody who does not fit has gone."""
        self._say_once(
            "a peer has gone without a handshake: it does not use CURVE, or is nothing that fits"
        )

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            zmqpush.say(text)
        self._told.add(text)


class Server:
    """What is known of one that we connect to."""

    def __init__(self) -> None:
        self.is_met = False  # the last connection had its handshake
        self.is_final = False  # libzmq does not try again by itself
        self.refusals = 0  # since it was met

    def pause_s(self) -> float:
        """How long to stay away after it has cut us off: twice as long each time."""
        self.refusals += 1
        return float(min(SHORTEST_PAUSE_S * 2 ** min(self.refusals - 1, 10), LONGEST_PAUSE_S))


class Clients:
    """Those who may connect: whose public keys are in a folder, or who knows ours."""

    def __init__(self, folder: str) -> None:
        """Raises ValueError where the folder cannot be read."""
        self._folder = folder
        self._keys: frozenset[bytes] = frozenset()
        self._told: set[bytes] = set()  # keys whose refusal was said
        self._said_at = -SAY_AGAIN_S
        if folder != ANYBODY:
            try:
                self._read()
            except OSError as error:
                raise ValueError(f"--curve-clients {folder}: {error.strerror}") from None

    def reload(self) -> None:
        """Read the folder again; where that cannot be, the last list stays."""
        if self._folder == ANYBODY:
            return
        try:
            self._read()
        except OSError as error:
            zmqpush.say(f"--curve-clients {self._folder}: {error.strerror}; the last list stays")
        self._told.clear()

    def _read(self) -> None:
        self._keys, faults = keys.read_folder(self._folder)
        for fault in faults:
            zmqpush.say(f"--curve-clients {self._folder}: left out {fault}")
        if not self._keys:
            zmqpush.say(f"--curve-clients {self._folder}: no keys in it: nobody can connect")

    def lets_in(self, key: bytes) -> bool:
        """Whether who has this key (32 bytes) may speak; says which was refused."""
        if self._folder == ANYBODY or key in self._keys:
            return True
        if key not in self._told and time.monotonic() - self._said_at >= SAY_AGAIN_S:
            if len(self._told) >= MOST_TOLD:
                self._told.clear()
            self._told.add(key)
            self._said_at = time.monotonic()
            zmqpush.say(
                f"refused a peer whose key is not in {self._folder}: {keys.encode(key).decode()}"
            )
        return False


def read(how: Any, option: str, word: str) -> Any:
    """What `how` makes of the value of an option. Raises ValueError, which names that."""
    try:
        return how(word)
    except OSError as error:
        raise ValueError(f"{option} {word}: {os.strerror(error.errno or 0)}") from None
    except ValueError as error:
        raise ValueError(f"{option} {word}: {error}") from None
