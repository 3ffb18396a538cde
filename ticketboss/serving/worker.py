"""gunicorn's worker: a door, and threads that take turns at the connections.

The main thread keeps the door: it accepts, parts with who is late, and hears the
signals. Of the others one waits at a poll for whatever comes on any connection,
does all that can be done at once and gives the connection back; before it waits
for something else, another takes its place. No thread is engaged before a request
is there as a whole, and none waits for a client.
"""

import logging
import mmap
import os
import resource
import selectors
import signal
import struct
import sys
import time
from array import array
from collections import deque
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_NOTSENT_LOWAT
from threading import Lock, Thread

from gunicorn import glogging
from gunicorn.workers import base

from ticketboss import metrics, waiting
from ticketboss.metrics import PLACES
from ticketboss.rules import limits
from ticketboss.serving import exposure, startup, wire
from ticketboss.serving.connection import Connection, House
from ticketboss.serving.poll import Poll

log = logging.getLogger(__name__)

# By which a worker is told to stop.
STOPS = (signal.SIGTERM, signal.SIGQUIT)

# What stands in a place that is empty.
NOBODY = 0xFFFF
REASON = struct.Struct("512s")

# Descriptors that are no client's: of the database, of the log, of gunicorn.
OTHER_FILES = 128

# How often the one at the door looks for connections that are late.
ROUND = 1.0
STOPPING_ROUND = 0.02


class Worker(base.Worker):
    """A worker with a processor of its own, and its share of the connections.

    All workers wait for connections at one socket, and each keeps those that it
    accepted for as long as its clients do. So whoever is awake would take a whole
    burst, and the others stand idle: the one that is ahead lets them go first.
    """

    # How many connections each has open, in memory that the processes share.
    _open = memoryview(mmap.mmap(-1, 2 * PLACES)).cast("H")
    _open[:] = array("H", [NOBODY] * PLACES)
    # Why one could not start.
    _reasons = mmap.mmap(-1, PLACES * REASON.size)
    # A pipe into which nobody writes: it ends when the parent does.
    _lifeline: tuple[int, int] = (-1, -1)

    place = 0
    processor: int | None = None

    def settle(self, others: list["Worker"], processors: list[int]) -> None:
        """Choose, before the fork, a place of its own and the processor with the fewest others."""
        taken = {other.place for other in others}
        self.place = next(place for place in range(PLACES) if place not in taken)
        busy = [other.processor for other in others]
        self.processor = min(processors, key=busy.count, default=None)
        if Worker._lifeline == (-1, -1):
            Worker._lifeline = os.pipe()

    def serves(self) -> bool:
        """Tell, to the parent, whether it has started."""
        return self._open[self.place] != NOBODY

    def leave(self) -> str:
        """Give up its place, and return why it could not start, if so; the parent does this."""
        self._open[self.place] = NOBODY
        metrics.leave(self.place)
        (reason,) = REASON.unpack_from(self._reasons, self.place * REASON.size)
        self._give_reason("")
        return reason.rstrip(b"\0").decode(errors="replace")

    def _give_reason(self, reason: str) -> None:
        REASON.pack_into(self._reasons, self.place * REASON.size, reason.encode())

    @classmethod
    def check_config(cls, cfg, log):
        if cfg.is_ssl:
            raise SystemExit("ticketboss: TLS is for a proxy in front; certfile takes no value")

    def init_process(self):
        metrics.enter(self.place)
        os.close(self._lifeline[1])
        self._share_the_machine()
        super().init_process()

    def init_signals(self):
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # its master has blocked them

    def load_wsgi(self):
        """Make the application, or end and leave it to the parent to say why not, and go on."""
        try:
            # Settings that are read again may say other terms than those of the start.
            addresses = [listener.getsockname() for listener in self.sockets]
            exposure.check_addresses(startup.load_config(), addresses)
            return super().load_wsgi()
        except SystemExit as end:
            if not isinstance(end.code, str):  # the parent has lost its patience
                raise
            self._give_reason(end.code.removeprefix("ticketboss: "))
        except Exception as error:
            log.exception("unexpected error")
            self._give_reason(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise SystemExit(0)

    def _share_the_machine(self) -> None:
        """Ask the scheduler for what suits threads that share the interpreter lock (sched(7))."""
        if self.processor is not None:
            # They run one at a time: on one processor they find its caches warm
            # and wake each other cheaply.
            with suppress(OSError):
                os.sched_setaffinity(0, {self.processor})
        if hasattr(os, "SCHED_BATCH"):
            # One that is woken waits until the one at work gives up the lock,
            # rather than interrupts it in order to wait for it.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        # Linux may weigh sessions rather than processes, one with all of us against one with
        # all of a database's that is on this machine: so each of us is a session.
        os.setsid()

    def run(self) -> None:
        self._house = House(self.wsgi, wire.settings_of(self.cfg))
        self._poll = Poll()
        self._connections: set[Connection] = set()
        # Those that wait in the poll, the longest first: who takes one out owns it.
        self._waiting: dict[int, Connection] = {}
        # What the poll has told of, and nobody has come to so far.
        self._ready: deque[int] = deque()
        self._room = min(self.cfg.worker_connections, _files() - OTHER_FILES)
        self._tell()
        at_the_poll = Lock()
        for _ in range(self.cfg.threads):
            Server(self, at_the_poll).start()
        self._keep_the_door()
        self._finish()

    # --- The threads ------------------------------------------------------------

    def serve_next(self) -> None:
        """Take the next connection on which something has come, and do what can be done at once."""
        while not self._ready:
            self._ready.extend(self._poll.wait())
        connection = self._waiting.pop(self._ready.popleft(), None)
        if connection is not None:
            self._attend(connection, connection.proceed)

    def _attend(self, connection: Connection, step) -> None:
        """Let a connection, which is not in the poll, take a step; then it is again, or closed."""
        try:
            step()
        except OSError:  # its client is gone
            connection.awaits = None
        except Exception:
            log.exception("unexpected error")
            connection.awaits = None
        self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        descriptor = connection.fileno()
        if connection.awaits:
            self._waiting[descriptor] = connection  # before the poll can name it
            with suppress(OSError):  # it has just been made to make way
                self._poll.arm(descriptor, connection.awaits)
        else:
            self._connections.discard(connection)
            connection.close()
            self._tell()

    def _tell(self) -> None:
        self._open[self.place] = count = len(self._connections)
        metrics.CLIENTS.set(count)

    # --- The door ---------------------------------------------------------------

    def _keep_the_door(self) -> None:
        """Let clients in until this worker or its parent is to stop."""
        alarm, lifeline = self.PIPE[0], self._lifeline[0]
        listeners = {listener.fileno(): listener for listener in self.sockets}
        door = selectors.DefaultSelector()
        for descriptor in (alarm, lifeline, *listeners):
            door.register(descriptor, selectors.EVENT_READ)
        for listener in self.sockets:
            listener.setblocking(False)
            with suppress(OSError):  # a Unix socket; what is accepted inherits it
                listener.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES)
        while self.alive:
            self.notify()
            for key, _ in door.select(ROUND):
                if key.fd in listeners:
                    self._let_others_go_first()
                    self._accept(listeners[key.fd])
                elif key.fd == alarm:
                    os.read(alarm, 4096)
                else:
                    self.alive = False  # nobody is left who could say so
            self._part_with_the_late()

    def _let_others_go_first(self) -> None:
        if len(self._connections) > min(self._open) + limits.ACCEPT_AHEAD:
            time.sleep(limits.ACCEPT_COURTESY)

    def _accept(self, listener) -> bool:
        """Let one client in; tell whether there was one, and room for it."""
        if len(self._connections) >= self._room and not self._make_way():
            time.sleep(limits.ACCEPT_COURTESY)  # all are being answered: one will be done soon
            return False
        try:
            client, peer = listener.accept()
        except BlockingIOError:  # another worker was quicker
            return False
        except OSError:  # the client is gone; or the system has no more to give just now
            time.sleep(limits.ACCEPT_COURTESY)
            return False
        addresses = _tcp(peer), _tcp(listener.getsockname())
        connection = Connection(client, *addresses, self._house)
        self._connections.add(connection)
        self._give_back(connection)
        self._tell()
        return True

    def _make_way(self) -> bool:
        """Close the connection that has been waiting for the longest, if one waits."""
        with suppress(StopIteration, RuntimeError):  # a thread was quicker
            descriptor = next(iter(self._waiting))
            if connection := self._waiting.pop(descriptor, None):
                metrics.CUT_OFF.add(metrics.NO_ROOM)
                connection.awaits = None
                self._give_back(connection)
                return True
        return False

    def _part_with_the_late(self) -> None:
        now = time.monotonic()
        for descriptor, connection in list(self._waiting.items()):
            if connection.due() <= now and self._waiting.pop(descriptor, None) is not None:
                self._attend(connection, connection.expire)

    def _finish(self) -> None:
        """Close the door, answer whoever is in, and see them off."""
        now = time.monotonic()
        self._house.last_call = now + limits.STOP_SILENCE
        end = now + self.cfg.graceful_timeout
        while time.monotonic() < now + limits.HANDSHAKE:
            time.sleep(STOPPING_ROUND)
            for listener in self.sockets:
                while self._accept(listener):
                    pass
        for listener in self.sockets:
            listener.close()
        while self._connections and time.monotonic() < end:
            self.notify()
            time.sleep(STOPPING_ROUND)
            self._part_with_the_late()


class Server(Thread):
    """A thread of a worker. One at a time is at the poll, and serves until it has to wait.

    Before it waits, for the database or in line, another takes its place. If all that
    could went to work at once they would take the interpreter lock from each other at
    every call of the system, and whoever is unlucky would go on last.
    """

    def __init__(self, worker: Worker, at_the_poll: Lock):
        super().__init__(daemon=True)
        self._worker = worker
        self._at_the_poll = at_the_poll
        self._is_there = False

    def run(self) -> None:
        waiting.here.step_aside = self._step_aside  # type: ignore[method-assign]
        try:
            while True:
                if not self._is_there:
                    self._at_the_poll.acquire()
                    self._is_there = True
                self._worker.serve_next()
        finally:
            self._step_aside()

    def _step_aside(self) -> None:
        if self._is_there:
            self._is_there = False
            self._at_the_poll.release()


def _files() -> int:
    """Return how many files this process may have open, having asked for as many as it can."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS grants less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files


def _tcp(address: tuple | str) -> tuple:
    """Return host and port of an address, whether it has them or not: a Unix socket has none."""
    return address if isinstance(address, tuple) else ("localhost", "")


class Logger(glogging.Logger):
    """gunicorn's log, written by ours."""

    def setup(self, cfg):
        self.loglevel = logging.INFO
        self.error_log.propagate = True
