"""Who is killed, stopped and cut off: collectors, shippers with what feeds them, connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.chaos.judging import Life, numbers_in, text_of
from tests.chaos.stores import CALM_S, Repeated, Store
from tests.support.endpoints import address_of
from tests.support.net import free_endpoint, unread
from tests.support.programs import Shipper
from tests.support.rsyslog import TEMPLATE, Rsyslogd, install_program
from tests.support.spooled import rows
from tests.support.waiting import DEADLINE_S, wait_until

SEED = int(os.environ.get("CHAOS_SEED") or 4)


class Puller:
    """A zmqpull.py that is started again and again, always at the same endpoint."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self.name = name
        self.endpoint = free_endpoint()
        self.process: Shipper | None = None
        self._arguments = ["--bind", self.endpoint, *arguments]
        self._said = folder / f"{name}.said"

    def start(self) -> None:
        """Start it, if it does not run."""
        if not self.process:
            with open(self._said, "ab") as said:
                self.process = Shipper(
                    *self._arguments,
                    program="zmqpull.py",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                )

    def runs(self) -> bool:
        """Whether it was not killed; it does not end by itself."""
        ended = self.process and self.process.process.poll() is not None
        assert not ended, self._said.read_text()
        return self.process is not None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with a signal, at once or soon."""
        assert self.runs()
        assert self.process
        self.process.signal(number)
        self.process.signal(signal.SIGCONT)
        self.process.process.wait(CALM_S)
        self.close()

    def close(self) -> None:
        """Kill it, if it runs; may be called again."""
        if self.process:
            self.process.stop()
        self.process = None

    def end(self) -> None:
        """Let it write what it has, and end."""
        assert self.process
        self.process.signal(signal.SIGTERM)
        assert self.process.process.wait(DEADLINE_S) == 0


class Source:
    """Numbered lines, and the shippers that take them."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._rng = random.Random(f"{seed} {name}")
        self._feeder: Repeated | None = None

    def next(self) -> int:
        """The number of the next line."""
        raise NotImplementedError

    def write(self, count: int) -> None:
        """Give the next lines to a shipper."""
        raise NotImplementedError

    def feed(self, store: Store, most: int, burst: int, lead: int) -> None:
        """Begin to write up to `most` lines at a time; now and then, up to `burst`.

        While `lead` are under way, it is one.
        """

        def write_some() -> None:
            time.sleep(self._rng.uniform(0, 0.1))
            highest = self._rng.choices([most, burst], [0.97, 0.03])[0]
            room = lead - (self.next() - store.last(self.name))
            self.write(max(1, min(self._rng.randint(1, highest), room)))

        self._feeder = Repeated(write_some)

    def stop_feeding(self) -> None:
        """Write no more."""
        if self._feeder:
            self._feeder.end()


class Piped(Source):
    """A zmqpush.py with a pipe, into which numbered lines are written, from one life to the next.

    With a `spool`, what was journaled is known, as `tests.chaos.judging` tells.
    """

    def __init__(
        self, folder: Path, name: str, seed: int, arguments: list[str], spool: Path | None
    ) -> None:
        super().__init__(name, seed)
        self.spool = spool
        self.lives: list[Life] = []
        self._arguments = [*arguments, *(["--spool", str(spool)] if spool else [])]
        self._said = folder / f"{name}.said"
        self._lock = threading.Lock()  # held by who writes, or has the process replaced
        self._start()

    def _start(self) -> None:
        with open(self._said, "ab") as said:
            self.process = Shipper(*self._arguments, stdout=subprocess.DEVNULL, stderr=said)
        self._unwritten = 0  # bytes that it would have got if it lived
        start = self.next()
        self.lives.append(Life(self.process.pid, start, start, start))

    def next(self) -> int:
        return self.lives[-1].stop if self.lives else 0

    def write(self, count: int) -> None:
        with self._lock:
            life = self.lives[-1]
            numbers = range(life.stop, life.stop + count)
            data = "".join(text_of(self.name, number) + "\n" for number in numbers).encode()
            life.stop = numbers.stop
            self._unwritten += len(data)
            with contextlib.suppress(BrokenPipeError):  # it was killed; it may have got some of it
                while data:
                    count = os.write(self._pipe(), data)
                    self._unwritten -= count
                    data = data[count:]
            self._observe()

    def _pipe(self) -> int:
        assert self.process.process.stdin
        return self.process.process.stdin.fileno()

    def _observe(self) -> None:
        self.lives[-1].observe(unread(self._pipe()) + self._unwritten)

    def interrupt(self) -> None:
        """End it with SIGINT, and start the next one; all that was written is journaled then."""
        self.process.signal(signal.SIGCONT)  # or who writes now would do so for ever
        wait_until(self._has_begun, f"{self.name} has begun", CALM_S)
        with self._lock:
            self.process.signal(signal.SIGINT)
            assert self.process.process.wait(CALM_S) == 0, self._said.read_text()
            self._bury()
            self.lives[-1].journaled = self.next()
            self._start()

    def _has_begun(self) -> bool:
        """Whether it has come so far that a signal is for its own code, not for Python."""
        assert self.spool
        return any(self.spool.glob(f"*-{self.process.pid}.spool"))

    def kill(self) -> None:
        """Kill it with -9, and start the next one."""
        assert self.process.process.poll() is None, self._said.read_text()
        self.process.signal(signal.SIGKILL)  # at any moment, while we may be writing
        with self._lock:
            self._bury()
            self._start()

    def _bury(self) -> None:
        self.process.process.wait()
        self._observe()
        self.process.stop()
        if self.spool and self.spool.exists():
            self.lives[-1].found(
                numbers_in(b"\n".join(row.text for row in rows(self.spool)), self.name)
            )

    def finish(self, deadline_s: float = CALM_S) -> None:
        """Write no more; return when it has delivered everything and ended."""
        self.stop_feeding()
        assert self.process.finish(deadline_s=deadline_s).status == 0
        self.lives[-1].journaled = self.next()

    def kill_at_last(self) -> None:
        """Write no more, kill it with -9."""
        self.process.signal(signal.SIGKILL)
        self.stop_feeding()
        self._bury()

    def close(self) -> None:
        """Kill it; may be called again."""
        self.process.signal(signal.SIGKILL)
        self.stop_feeding()
        self.process.stop()


class Logged(Source):
    """A rsyslogd that starts zmqpush.py programs as it sees fit, and asks for confirmation.

    It starts one in place of one that was killed when it has something to log.
    """

    CONFIGURATION = """\
main_queue(queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000")
module(load="omprog")
if $programname == "unit" then
  action(type="omprog" name="ship" template="{template}" output="{said}"
         binary="{program} {arguments}" confirmMessages="on"
         queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000"
         queue.workerThreads="2" queue.workerThreadMinimumMessages="100"
         action.resumeRetryCount="-1" action.resumeInterval="1")
"""

    def __init__(self, folder: Path, seed: int, arguments: list[str], spool: Path) -> None:
        super().__init__("logged", seed)
        self.count = 0  # messages that were logged
        self.spool = spool
        place = folder / "rsyslogd"
        place.mkdir()
        configuration = self.CONFIGURATION.format(
            template=TEMPLATE,
            said=folder / f"{self.name}.said",
            program=install_program(place),
            arguments=" ".join([*arguments, "--spool", str(spool), "--omprog"]),
        )
        self.rsyslogd = Rsyslogd(place, configuration)
        self.rsyslogd.start()

    def next(self) -> int:
        return self.count

    def write(self, count: int) -> None:
        numbers = range(self.count, self.count + count)
        texts = [text_of(self.name, number) for number in numbers]
        self.rsyslogd.log(*(f"<13>unit: {text}".encode() for text in texts))
        self.count = numbers.stop

    def finish(self, store: Store) -> None:
        """Log no more, end rsyslogd when all has arrived, or nothing comes any longer."""
        self.stop_feeding()
        with contextlib.suppress(AssertionError):
            store.wait_for(self.name, self.count - 1, CALM_S)
        self.rsyslogd.terminate()
        self.rsyslogd.wait_for_programs(CALM_S)

    def close(self) -> None:
        """Kill everything; may be called again."""
        self.rsyslogd.close()
        with contextlib.suppress(OSError):  # rsyslogd is gone
            self.stop_feeding()


# ---- connections ------------------------------------------------------------------------------


class Proxy:
    """A TCP relay to `target`, on a thread of its own, that can be slow, silent, or cut."""

    def __init__(self, target: str) -> None:
        self.endpoint = free_endpoint()
        self.delay_s = 0.0
        self._target = address_of(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()  # of these, what swallows everything
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, *address_of(self.endpoint))
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            writers.add(target_writer)
            self._writers |= writers
            there = asyncio.ensure_future(self._relay(reader, target_writer))
            back = asyncio.ensure_future(self._relay(target_reader, writer))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
        except OSError:
            pass  # the target is not there
        finally:
            self._writers -= writers
            self._silent -= writers
            reset(writers)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(64 * 1024):
                await asyncio.sleep(self.delay_s)
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()

    def slow_down(self, delay_s: float) -> None:
        """Keep everything back for so long; 0: no more."""
        self.delay_s = delay_s

    def fall_silent(self) -> None:
        """Swallow everything, on the connections that there are."""
        self._loop.call_soon_threadsafe(lambda: self._silent.update(self._writers))

    def cut(self) -> None:
        """Reset all connections; new ones are relayed."""
        self._loop.call_soon_threadsafe(lambda: reset(self._writers))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reset(writers: set[asyncio.StreamWriter]) -> None:
    """Close connections at once, with RST (socket(7), SO_LINGER)."""
    for writer in writers:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


def connections_to(endpoint: str) -> int:
    """How many somebody has made there and the collector has open (proc(5), /proc/net/tcp).

    While it has, there may be something to read, even where the other side is gone.
    """
    host, port = address_of(endpoint)
    address = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    local = f"{address:08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    established, close_wait = "01", "08"
    return sum(
        fields[1] == local and fields[3] in (established, close_wait) for fields in lines[1:]
    )
