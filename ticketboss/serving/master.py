"""gunicorn's master, who starts and stops workers so that nobody is lost.

gunicorn lets workers go before it knows whether those that come can serve, starts
those that cannot for ever, and shuts its door on whoever is just coming in. It has
no setting for another master, so this one takes the place of its own.
"""

import ctypes
import logging
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from ticketboss.rules import limits
from ticketboss.serving.worker import STOPS, Worker

log = logging.getLogger(__name__)

# A filter for a socket (bpf(4)): operation, jumps if true and if false, operand. It drops
# what asks for a new connection, SYN without ACK, and passes everything else.
NO_NEWCOMERS = (
    (0x30, 0, 0, 13),  # of a segment, load the byte that has the flags,
    (0x54, 0, 0, 0x12),  # and of that SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone,
    (0x06, 0, 0, 0),  # keep nothing of it
    (0x06, 0, 0, 0xFFFFFFFF),  # otherwise all
)
SO_ATTACH_FILTER = 26  # Python has no name for it


class Master(Arbiter):
    """The one that starts the workers and stops them."""

    # The worker on which new settings are tried.
    _trial: Worker | None = None
    # Why the last worker that could not start could not, until that has been told.
    _reason = ""
    _pause_ends = 0.0

    def take_over(self) -> None:
        """Correct what gunicorn has noted down for starting itself anew.

        It would run the module of `python -m gunicorn` as a file, and so have Python
        find gunicorn's `http` instead of its own.
        """
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]

    def spawn_worker(self) -> int:
        """Start a worker, and keep what it is told meanwhile until it can hear.

        Before it has handlers of its own it has ours, which would note a signal for
        nobody: told to stop then, it went on until it was killed with all it was doing.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def reload(self) -> None:
        """Try the settings on one new worker; until it serves, those that run stay."""
        if self._trial:
            self.kill_worker(self._trial.pid, signal.SIGTERM)
        self._trial = self.WORKERS[self.spawn_worker()]

    def manage_workers(self) -> None:
        """Start and stop workers as needed; end if none can serve."""
        if self._reason:
            self._tell_reason()
        if self._trial:
            if not self._trial.serves():
                return
            self._trial = None
            for _ in range(self.num_workers - 1):
                self.spawn_worker()
        if time.monotonic() >= self._pause_ends:
            super().manage_workers()

    def miss(self, worker: Worker) -> None:
        """Note that a worker is gone, and why if it could not start."""
        self._reason = worker.leave() or self._reason
        if worker is self._trial:
            self._trial = None
            self._reason = self._reason or "it was killed"

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers, without losing a client whom the system has let in."""
        handed_on = self.systemd or self.reexec_pid or self.master_pid
        if sys.platform == "linux" and not handed_on:
            for listener in self.LISTENERS:
                if listener.family != socket.AF_UNIX:
                    _turn_newcomers_away(listener)
        super().stop(graceful)

    def _tell_reason(self) -> None:
        reason, self._reason = self._reason, ""
        if not any(worker.serves() for worker in self.WORKERS.values()):
            raise HaltServer(f"no worker can start: {reason}", 1)
        log.error("a new worker cannot start, those that run go on: %s", reason)
        self._pause_ends = time.monotonic() + limits.START_PAUSE


def _turn_newcomers_away(listener) -> None:
    """Let the system ignore who is not in yet; nobody would be left to let them in.

    Whoever comes between the last look at the queue and the end of the socket would
    be taken for connected, and cut off. The ignored ask again, after a second, and
    are refused: nothing was said yet, so anybody may try elsewhere.
    """
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *instruction) for instruction in NO_NEWCOMERS)
    )
    program = struct.pack("HP", len(NO_NEWCOMERS), ctypes.addressof(code))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
