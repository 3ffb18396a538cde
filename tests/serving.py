"""Real servers for tests: gunicorn as it is deployed, and HTTP to talk to it."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ticketboss.config import Config
from ticketboss.data import database
from ticketboss.serving import embedded

ROOT = Path(__file__).parent.parent
ADMIN_KEY = "an-admin-key-for-tests"
START_SECONDS = 30
# `make test-matrix` names where another release of PostgreSQL has its programs.
if folder := os.environ.get("TEST_POSTGRESQL"):
    embedded.programs = lambda: Path(folder)
of_the_embedded = pytest.mark.skipif(
    bool(folder), reason="it is about the embedded PostgreSQL, and the tests run on another"
)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """One kept-alive connection to a server; not to be shared between threads."""

    def __init__(self, port: int, timeout: float = 30, source: str = "127.0.0.1"):
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=timeout, source_address=(source, 0)
        )

    def call(self, method: str, path: str, body=None, headers: dict | None = None) -> Answer:
        """Send a request; a body that is not bytes is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()
            raise

    def get(self, path: str, **headers) -> Answer:
        return self.call("GET", path, headers=_headers(headers))

    def post(self, path: str, body=None, **headers) -> Answer:
        return self.call("POST", path, body, _headers(headers))

    def patch(self, path: str, body=None, **headers) -> Answer:
        return self.call("PATCH", path, body, _headers(headers))

    def delete(self, path: str, **headers) -> Answer:
        return self.call("DELETE", path, headers=_headers(headers))

    def close(self) -> None:
        self._connection.close()


def _headers(keywords: dict) -> dict:
    """Return `if_match="3"` as `If-Match: 3`."""
    return {name.replace("_", "-"): value for name, value in keywords.items()}


ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


class Server:
    """A gunicorn with its workers, on a free port of the loopback."""

    def __init__(self, dsn: str | None, checkout: Path = ROOT, **environment):
        self.checkout = checkout
        self.port = int(environment.pop("PORT", 0)) or free_port()
        clean = {
            name: value
            for name, value in os.environ.items()
            if name
            not in ("AUTH", "DATABASE_URL", "EVENT_ID", "HOST", "LOG_FORMAT", "WORKERS", "THREADS")
        }
        self.environment = {
            **clean,
            "PORT": str(self.port),
            "ADMIN_KEY": ADMIN_KEY,
            "DATABASE_URL": dsn or "",
            "EVENT_ID": "",
            **environment,
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.process = None

    def start(self, wait: bool = True) -> "Server":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "python:ticketboss.serving.gunicorn_conf"],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if wait:
            self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self) -> None:
        workers = int(self.environment.get("WORKERS") or Config().workers)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), contextlib.closing(self.client()) as client:
                if client.get("/livez").status == 200 and len(self.worker_pids()) == workers:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.output()}")

    def client(self, timeout: float = 30, source: str = "127.0.0.1") -> Client:
        return Client(self.port, timeout, source)

    def output(self) -> str:
        # Without moving the place where the server writes, which is the same.
        log = self.log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode()

    def worker_pids(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()]

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def __enter__(self) -> "Server":
        return self.start() if self.process is None else self

    def __exit__(self, *_):
        self.stop()
        self.log.close()


def wait_for(seen, seconds: float = 15):
    """Return what `seen()` returns as soon as that is true, or else in the end."""
    deadline = time.monotonic() + seconds
    while not (result := seen()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return result


def listens(pid: int) -> bool:
    """Tell whether a worker waits for connections: at its listener and at its own pipe."""
    waited_for = 0
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            waited_for += descriptor.read_text().count("tfd:")
    return waited_for >= 2


def settled_workers(server: Server, number: int) -> list[int]:
    """Return the workers as soon as there are so many and all of them listen."""
    assert wait_for(
        lambda: len(server.worker_pids()) == number and all(map(listens, server.worker_pids())),
        START_SECONDS,
    ), server.output()
    return server.worker_pids()


def free_port() -> int:
    """Return a port below those that the system gives to whoever connects somewhere."""
    while True:
        port = random.randrange(16384, 32768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def connect(dsn: str):
    """Return a psycopg2 connection that never gives up waiting, in autocommit mode.

    Importing ticketboss.data.database has set its wait callback for the whole
    process, so a plain psycopg2.connect() would not work here.
    """
    connection = database.Connection(dsn, deadline=float("inf"))
    connection.autocommit = True
    return connection


def run_sql(dsn: str, sql: str, parameters=None) -> list[tuple]:
    """Run a statement on a connection of its own and return its rows."""
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def new_folder(prefix: str = "ticketboss-test-", parent: Path | None = None) -> Path:
    """Make a folder that the account that runs PostgreSQL for root may pass through."""
    # A short path: that of a socket in it must not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o711)
    return folder


@contextlib.contextmanager
def postgresql(folder: Path):
    """Run an embedded PostgreSQL on a folder; give its connection string."""
    server = embedded.Server(folder)
    server.join()
    try:
        yield server.dsn
    finally:
        server.leave()
