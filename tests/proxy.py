"""A proxy between the service and PostgreSQL that breaks the connection where a test says.

It listens on TCP and connects to the embedded server's Unix socket. It follows
the protocol just far enough (PostgreSQL manual, 54.7) to know where a message
ends and when an answer is complete, so that a fault strikes at a known point
and not after some time.
"""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

# Where a fault strikes, seen from the service's write message.
BEFORE = "before the message reaches the server"
TORN = "with half of the message at the server"
UNANSWERED = "after the commit, before its answer"
HALF_ANSWERED = "after the commit, with half of its answer"
POINTS = (BEFORE, TORN, UNANSWERED, HALF_ANSWERED)
# Not a cut: the message waits here, as in a network that has gone silent.
HELD = "held"

SECONDS = 20  # no wait in a test takes this long


def is_write(message: bytes) -> bool:
    """Tell the message that writes a batch."""
    return b"FROM write_batch_" in message or b"UPDATE events" in message


def is_lookup(message: bytes) -> bool:
    """Tell the message that looks for a batch whose answer was lost."""
    return b"FROM ledger" in message and not is_write(message)


def is_exchange(message: bytes) -> bool:
    """Tell what the service asks from what its driver says."""
    return b"SET LOCAL" in message


class Fault:
    """What happens, once, to the first message that `concerns` picks."""

    def __init__(self, concerns: Callable[[bytes], bool], point: str):
        self.concerns = concerns
        self.point = point
        self.taken = False
        self.reached = threading.Event()
        self.released = threading.Event()
        self.delivered = threading.Event()

    def wait_until_reached(self) -> None:
        assert self.reached.wait(SECONDS), f"no message came to be {self.point}"

    def release(self) -> None:
        """Deliver a held message, whether or not its sender still waits."""
        self.released.set()

    def deliver(self) -> None:
        """Release a held message, and wait until the server has answered it."""
        self.release()
        assert self.delivered.wait(SECONDS), "the server did not answer a held message"


class Proxy:
    """The server of `dsn` on a TCP port of the loopback, with faults."""

    def __init__(self, dsn: str):
        parts = urlsplit(dsn)
        folder = parse_qs(parts.query)["host"][0]
        self._target = f"{folder}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = f"postgresql://{parts.username}@127.0.0.1:{port}/postgres?sslmode=disable"
        self.connections = 0
        self._faults: list[Fault] = []
        self._mutex = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self._refuses: float = 0
        self._closed = False

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closed = True
        self._flows.set()
        for fault in self._faults:
            fault.release()
        # close() alone does not wake a thread that sits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def fault(self, point: str, concerns: Callable[[bytes], bool] = is_write) -> Fault:
        """Arm a fault; those armed first strike first."""
        fault = Fault(concerns, point)
        with self._mutex:
            self._faults.append(fault)
        return fault

    def freeze(self) -> None:
        """Let nothing through any more, in either direction, and close nothing."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def refuse(self, times: float = float("inf")) -> None:
        """Close so many new connections at once, as a server that is down."""
        self._refuses = times

    def cut_all(self) -> None:
        with self._mutex:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                self._refuses -= 1
                client.close()
                continue
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server:
            with self._mutex:
                self._open |= {client, server}
            try:
                server.connect(self._target)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._forward(_startup(client), client, server)
                while message := self._next(client, server):
                    self._forward(message, client, server)
            except OSError:
                pass  # either end is gone, and so goes the other
            finally:
                with self._mutex:
                    self._open -= {client, server}

    def _next(self, client: socket.socket, server: socket.socket) -> bytes:
        """Return the client's next message; pass on what the server says unasked."""
        while True:
            readable, _, _ = select.select([client, server], [], [])
            self._flows.wait()
            if client in readable:
                return _message(client)
            farewell = server.recv(65536)
            if not farewell:
                return b""
            client.sendall(farewell)

    def _forward(self, message: bytes, client: socket.socket, server: socket.socket) -> None:
        fault = self._strikes(message)
        if fault is None:
            self._flows.wait()
            server.sendall(message)
            if message[:1] != b"X":  # Terminate has no answer
                answer = _answer(server)
                self._flows.wait()
                client.sendall(answer)
            return
        if fault.point == HELD:
            fault.reached.set()
            fault.released.wait(SECONDS)
            if self._closed:
                return  # or it would reach into the next test
            server.sendall(message)
            answer = _answer(server)
            fault.delivered.set()
            client.sendall(answer)
            return
        if fault.point == TORN:
            server.sendall(message[: len(message) // 2])
        elif fault.point != BEFORE:
            server.sendall(message)
            answer = _answer(server)  # complete: the transaction is committed
            if fault.point == HALF_ANSWERED:
                client.sendall(answer[: len(answer) // 2])
        fault.reached.set()
        raise ConnectionResetError

    def _strikes(self, message: bytes) -> Fault | None:
        with self._mutex:
            for fault in self._faults:
                if not fault.taken and fault.concerns(message):
                    fault.taken = True
                    return fault
        return None


def _exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return bytes(data)


def _startup(client: socket.socket) -> bytes:
    """Read the one message that has no type."""
    size = _exactly(client, 4)
    return size + _exactly(client, struct.unpack("!I", size)[0] - 4)


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, 5)
    return head + _exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def _answer(server: socket.socket) -> bytes:
    """Read messages up to ReadyForQuery, which comes when the transaction is over."""
    answer = b""
    while True:
        message = _message(server)
        answer += message
        if message[:1] == b"Z":
            return answer
