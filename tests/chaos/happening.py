"""The whole chain, from what is written to a store, and all that is done to it."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.judging import Verdict, judge
from tests.chaos.stores import CALM_S, RedisStore, Store, TableStore
from tests.chaos.victims import Logged, Piped, Proxy, Puller, connections_to
from tests.support.keyring import Keyring
from tests.support.programs import Shipper

LONG_STOP_S = 12.5  # a shipper asks a silent collector after 5 s, and leaves it after 5 more
PROGRAMS_KILLED = "programs of rsyslogd killed"


class Chaos:
    """The whole chain, and all that can happen to it."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        store: Store,
        seed: int,
        keyring: Keyring | None,
    ) -> None:
        """Start everything, with keys or without; it ends with `stack`."""
        print(f"CHAOS_SEED={seed}")
        self.done: collections.Counter[str] = collections.Counter()
        self._seed = seed
        self._folder = folder
        self._store = store
        self._keys = keyring.to_connect() if keyring else []
        self._rng = random.Random(seed)
        self._began_at = time.monotonic()
        self._later: list[tuple[float, Callable[[], None]]] = []  # when, what
        self._asleep: Puller | None = None  # one that is left alone until it is woken
        arguments = [*store.arguments, "--ack", *(keyring.to_bind() if keyring else [])]
        self._pullers = [Puller(folder, f"pull{n}", arguments) for n in range(2)]
        for puller in self._pullers:
            stack.callback(puller.close)
            puller.start()
        self._proxies = []
        for puller in self._pullers:
            self._proxies.append(Proxy(puller.endpoint))
            stack.callback(self._proxies[-1].close)
        self._endpoints = [puller.endpoint for puller in self._pullers]
        through_proxies = [proxy.endpoint for proxy in self._proxies]
        self._pipes: list[Piped] = []
        for name, endpoints, options in (
            ("direct", self._endpoints, []),
            ("relayed", through_proxies, ["--batch", "10"]),
        ):
            arguments = [*self._shipping(endpoints), *options]
            self._pipes.append(Piped(folder, name, seed, arguments, folder / f"spool-{name}"))
            stack.callback(self._pipes[-1].close)
        arguments = self._shipping(self._endpoints)
        self._logged = Logged(folder, seed, arguments, folder / "spool-logged")
        stack.callback(self._logged.close)
        self._sources: list[Piped | Logged] = [*self._pipes, self._logged]
        for source in self._pipes:
            source.feed(store, most=30, burst=20_000, lead=store.LEAD)
        self._logged.feed(store, most=30, burst=300, lead=store.LEAD)

    def _shipping(self, endpoints: list[str]) -> list[str]:
        connect = itertools.chain(*(("--connect", endpoint) for endpoint in endpoints))
        return [*connect, "--ack", *self._keys]

    def _did(self, what: str, whom: str) -> None:
        self.done[what] += 1
        print(f"{time.monotonic() - self._began_at:7.2f} s: {what}: {whom}")

    def _in(self, least_s: float, most_s: float, action: Callable[[], None]) -> None:
        """Have `action` done in a while."""
        when = time.monotonic() + self._rng.uniform(least_s, most_s)
        self._later.append((when, action))

    def _one_of(self, those: list[Any]) -> list[Any]:
        """One of them, if there are any."""
        return self._rng.sample(those, min(1, len(those)))

    # the things that happen

    def interrupt_a_shipper(self) -> None:
        pipe = self._rng.choice(self._pipes)
        self._did("shippers interrupted", pipe.name)
        pipe.interrupt()

    def kill_a_shipper(self) -> None:
        pipe = self._rng.choice(self._pipes)
        self._kill(pipe)
        if self._rng.random() < 0.3:  # the next one too, which begins, or is at what this one left
            self._in(0, 1, functools.partial(self._kill, pipe))

    def _kill(self, pipe: Piped) -> None:
        self._did("shippers killed", pipe.name)
        pipe.kill()

    def kill_a_program(self) -> None:
        """Of rsyslogd, which will start the next one."""
        for pid in self._one_of(sorted(self._logged.rsyslogd.programs())):
            self._did(PROGRAMS_KILLED, str(pid))
            signal_to(pid, signal.SIGKILL)

    def kill_a_collector(self) -> None:
        self._end_a_collector("collectors killed", signal.SIGKILL)

    def end_a_collector(self) -> None:
        """As a service manager does."""
        self._end_a_collector("collectors ended", signal.SIGTERM)

    def _end_a_collector(self, what: str, number: signal.Signals) -> None:
        awake = [p for p in self._pullers if p.runs() and p is not self._asleep]
        for puller in self._one_of(awake):
            self._did(what, puller.name)
            puller.kill(number)
            # A shipper waits for it to come back, or in vain.
            self._in(*self._rng.choice([(0, 1), (0, 1), (5, 9)]), puller.start)

    def stop_one(self) -> None:
        """Stop any process for a moment."""
        pids = {puller.process.pid: puller.name for puller in self._pullers if puller.process}
        pids.update((pipe.process.pid, pipe.name) for pipe in self._pipes)
        pids.update((pid, self._logged.name) for pid in self._logged.rsyslogd.programs())
        pids.update((pid, "redis") for pid in self._store.pids())
        if self._asleep and self._asleep.process:
            del pids[self._asleep.process.pid]
        pid = self._rng.choice(sorted(pids))
        self._did("stopped and continued", pids[pid])
        signal_to(pid, signal.SIGSTOP)
        self._in(0.1, 2, functools.partial(signal_to, pid, signal.SIGCONT))

    def cut_a_connection(self) -> None:
        self._did("connections reset", "")
        self._rng.choice(self._proxies).cut()

    def delay_a_connection(self) -> None:
        proxy = self._rng.choice(self._proxies)
        delay_s = self._rng.uniform(0.01, 0.3)
        self._did("connections slowed down", f"by {delay_s:.3f} s")
        proxy.slow_down(delay_s)
        self._in(0.5, 2, functools.partial(proxy.slow_down, 0.0))

    def silence_a_connection(self) -> None:
        """Then the stream has a hole: nobody can go on with it, and at last it is reset."""
        self._did("connections silent, then reset", "")
        proxy = self._rng.choice(self._proxies)
        proxy.fall_silent()
        self._in(0.5, 4, proxy.cut)

    def restart_redis(self) -> None:
        if isinstance(self._store, RedisStore):
            number = self._rng.choice([signal.SIGTERM, signal.SIGKILL])
            self._did("redis restarted", number.name)
            self._store.restart(number, self._rng.uniform(0, 1))

    # how it goes on

    def go_on(self, for_s: float) -> None:
        """Let things happen, and now and then one for long."""
        ends_at = self._began_at + for_s
        for last_for_long in itertools.cycle([self.stop_long, self.silence_long]):
            left_s = ends_at - time.monotonic()
            self.run(min(left_s, 15))
            if left_s < 15 + LONG_STOP_S:
                break
            last_for_long()

    def run(self, for_s: float) -> None:
        """Let one thing happen after the other."""
        things = [
            self.interrupt_a_shipper,
            self.end_a_collector,
            self.kill_a_shipper,
            self.kill_a_program,
            self.kill_a_collector,
            self.stop_one,
            self.cut_a_connection,
            self.delay_a_connection,
            self.silence_a_connection,
            self.restart_redis,
        ]
        ends_at = time.monotonic() + for_s
        while time.monotonic() < ends_at:
            # All of them, again and again: so nothing is left out in a short time.
            for thing in self._rng.sample(things, len(things)):
                time.sleep(self._rng.uniform(0, 0.5))
                self._do_later_things(time.monotonic())
                if time.monotonic() < ends_at:
                    thing()

    def _do_later_things(self, until: float) -> None:
        due = sorted((when, n) for n, (when, _) in enumerate(self._later) if when <= until)
        actions = [self._later[n][1] for _, n in due]
        self._later = [(when, action) for when, action in self._later if when > until]
        for action in actions:
            action()

    def calm_down(self) -> None:
        """End all that goes on, but for the long stop; return when all go on."""
        self._do_later_things(float("inf"))
        self._wait_until_all_go_on()
        assert all(puller.runs() for puller in self._pullers)

    def _wait_until_all_go_on(self) -> None:
        for name, next_number in {s.name: s.next() for s in self._sources}.items():
            self._store.wait_for(name, next_number, CALM_S)

    def stop_long(self) -> None:
        """Stop a collector until its shippers have left it, then wake it."""
        self.calm_down()
        used = [(connections_to(puller.endpoint), puller) for puller in self._pullers]
        count, puller = max(used, key=lambda pair: pair[0])
        assert count, "nobody is connected"
        assert puller.process
        self._did("collectors stopped for long", f"{puller.name}, with {count} connections")
        self._asleep = puller
        puller.process.signal(signal.SIGSTOP)
        began_at = time.monotonic()
        self.run(1)
        self._do_later_things(float("inf"))
        if self._store.IS_SHARED:
            self._wait_until_all_go_on()  # with the other collector
        time.sleep(max(0.0, began_at + LONG_STOP_S - time.monotonic()))
        self._asleep = None
        puller.process.signal(signal.SIGCONT)

    def silence_long(self) -> None:
        """Swallow everything on a connection, until its shipper has left it."""
        self.calm_down()
        used = [(connections_to(proxy.endpoint), n) for n, proxy in enumerate(self._proxies)]
        count, n = max(used)
        assert count, "nobody is connected"
        self._did("connections silent for long", self._pullers[n].name)
        self._proxies[n].fall_silent()
        self._wait_until_all_go_on()

    def end(self) -> Verdict:
        """Let it calm down, take what is left in the spools, and see what has come."""
        self.calm_down()
        self._pipes[0].finish()
        self._pipes[1].kill_at_last()
        self._logged.finish(self._store)
        for source in self._sources:
            assert source.spool
            drain(source.spool, self._shipping(self._endpoints))
        self._store.drain()
        lives = {pipe.name: pipe.lives for pipe in self._pipes}
        logged = {self._logged.name: self._logged.count}
        verdict = judge(lives, logged, self._store.hands, self.done[PROGRAMS_KILLED])
        things = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        took_s = time.monotonic() - self._began_at
        print(f"seed {self._seed}, {took_s:.0f} s, {things}: {verdict}")
        for said in sorted(self._folder.glob("*.said")):
            assert "Traceback" not in said.read_text(), said.read_text()
        return verdict


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def drain(spool: Path, arguments: list[str]) -> None:
    """Send what is left in `spool`; nothing is left then."""
    nothing = subprocess.DEVNULL
    shipper = Shipper(*arguments, "--spool", str(spool), stdin=nothing, stdout=nothing)
    try:
        result = shipper.finish(deadline_s=CALM_S)
    finally:
        shipper.stop()
    assert result.status == 0, result.stderr
    assert os.listdir(spool) == []


@contextlib.contextmanager
def chaos_into(
    kind: str, folder: Path, seed: int, keyring: Keyring | None = None
) -> Iterator[Chaos]:
    """The chain into "redis" or "sqlite", perhaps with keys."""
    with contextlib.ExitStack() as stack:
        store = RedisStore(folder / "redis") if kind == "redis" else TableStore(folder / "log.db")
        stack.callback(store.close)
        yield Chaos(stack, folder, store, seed, keyring)
