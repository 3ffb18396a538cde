"""What a run stands on: a database, the service on it, and their counts."""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg2
from psycopg2 import extensions

from tests import serving
from tests.benchmark import machine
from tests.benchmark.load import CannotMeasure
from ticketboss.config import Config
from ticketboss.data.database import Database
from ticketboss.data.store import Store
from ticketboss.serving import startup
from ticketboss.serving.embedded import EmbeddedError

SEATS = 10_000_000
# Settings without which an acknowledged reservation could be lost, and the numbers mean nothing.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
COUNTERS_PATIENCE = 10
# How soon a service at rest answers, and how long to wait for that; both in seconds.
REST_ANSWER = 0.02
REST_PATIENCE = 1


class Ground:
    """A database that is migrated, with events that belong to this run alone."""

    def __init__(self, config: Config, dsn: str, prefix: str, lent: bool):
        self.config = config
        self.dsn = dsn
        self.prefix = prefix
        self.lent = lent
        with prepared():
            startup.prepare(Config(database_url=dsn, event_id=self.event("first")))
        self.store = Store(Database(dsn, size=2))
        self.server = int(self.sql("SHOW server_version_num")[0][0])
        self.postmaster = self._postmaster()

    def event(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def create(self, *names: str) -> None:
        for name in names:
            self.store.create_event(self.event(name), name, SEATS)

    def sql(self, statement: str, parameters=None) -> list[tuple]:
        return serving.run_sql(self.dsn, statement, parameters)

    def require_durability(self) -> dict[str, str]:
        """Return the settings that make a commit durable; raise CannotMeasure if one is off."""
        settings = {name: self.sql(f"SHOW {name}")[0][0] for name in DURABLE}
        off = [name for name, value in settings.items() if value in ("off", "local")]
        if off:
            raise CannotMeasure(f"{off[0]} is off on this database: its commits are not durable")
        return settings

    def close(self) -> None:
        """Remove this run's rows from a database that is not its own."""
        self.store.database.close()
        if self.lent:
            for table in ("ledger", "reservations", "events"):
                self.sql(f"DELETE FROM {table} WHERE starts_with(event_id, %s)", (self.prefix,))

    @contextlib.contextmanager
    def beside(self, name: str):
        """Give another database on the same server, dropped afterwards."""
        database = self.event(name)
        try:
            self.sql(f'CREATE DATABASE "{database}"')
        except psycopg2.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise CannotMeasure(f"needs a database of its own: {reason}") from None
        try:
            dsn = extensions.make_dsn(self.dsn, dbname=database)
            other = Ground(self.config, dsn, self.prefix, lent=False)
            try:
                yield other
            finally:
                other.close()
        finally:
            self.sql(f'DROP DATABASE "{database}" WITH (FORCE)')

    def _postmaster(self) -> int | None:
        """Return the server's process; None if it is not on this machine."""
        with contextlib.closing(serving.connect(self.dsn)) as connection:
            backend = connection.info.backend_pid
            if machine.name(backend) in ("postgres", "postmaster"):
                return machine.parent(backend)
        return None


@contextlib.contextmanager
def prepared():
    """Say as CannotMeasure why the service cannot be prepared."""
    try:
        yield
    except SystemExit as failure:
        raise CannotMeasure(str(failure).removeprefix("ticketboss: ")) from None


@contextlib.contextmanager
def undisturbed():
    """Let Ctrl-C wait until the block has ended: half a start could not be undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came = []
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def ground():
    """Give the database of DATABASE_URL, or an embedded one that is removed afterwards."""
    with prepared():
        config = startup.load_config()
    prefix = f"benchmark-{time.time_ns() // 1_000_000 % 10**9:09d}"
    with contextlib.ExitStack() as stack:
        if config.database_url:
            dsn = config.database_url
        else:
            folder = Path(tempfile.mkdtemp(prefix="ticketboss-benchmark-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                with undisturbed():
                    dsn = stack.enter_context(serving.postgresql(folder))
            except EmbeddedError as error:
                raise CannotMeasure(str(error)) from None
        found = Ground(config, dsn, prefix, lent=bool(config.database_url))
        stack.callback(found.close)
        yield found


class Service(serving.Server):
    """The service under gunicorn, with the benchmark's no-op and counters."""

    def __init__(self, ground: Ground):
        config = ground.config
        super().__init__(
            ground.dsn,
            EVENT_ID=ground.event("first"),
            HOST="127.0.0.1",
            LOG_FORMAT="json",
            WORKERS=str(config.workers),
            THREADS=str(config.threads),
            POOL_SIZE=str(config.pool_size),
        )
        self.ground = ground

    def start(self, wait: bool = True) -> "Service":
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "-c",
                "python:ticketboss.serving.gunicorn_conf",
                "tests.benchmark.application:application()",
            ],
            cwd=serving.ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self.wait_until_it_answers()
        except BaseException as failure:
            self.stop()
            if not isinstance(failure, AssertionError):
                raise
            lines = self.output().strip().splitlines() or ["no reason given"]
            raise CannotMeasure(f"the service did not start: {lines[-1]}") from None
        return self

    def counters(self) -> Counter:
        """Return what every worker has counted since it started, added up."""
        missing = set(self.worker_pids())
        total = Counter()
        deadline = time.monotonic() + COUNTERS_PATIENCE
        while missing:
            if time.monotonic() > deadline:
                raise CannotMeasure("a worker of the service does not answer")
            # Connections that are open together are spread over the workers.
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(contextlib.closing(self.client())) for _ in "12345678"
                ]
                for client in clients:
                    counts = client.get("/counters").json
                    if (pid := counts.pop("pid")) in missing:
                        missing.remove(pid)
                        total.update(counts)
        return total

    def come_to_rest(self) -> None:
        """Wait until what the last load left behind, when it hung up, has been served."""
        deadline = time.monotonic() + REST_PATIENCE
        quick = 0
        while quick < 2 * len(self.worker_pids()) and time.monotonic() < deadline:
            started = time.monotonic()
            with contextlib.closing(self.client()) as client:
                client.get("/livez")
            quick = quick + 1 if time.monotonic() - started < REST_ANSWER else 0

    def empty_log(self) -> None:
        """Drop the log, before it is written to the disk that the database commits to."""
        self.log.seek(0)
        self.log.truncate()

    def resident(self) -> int:
        """Return the resident memory of all workers, in bytes."""
        return sum(machine.resident(pid) for pid in self.worker_pids())

    def cpu(self) -> Counter:
        """Return the processor time, in seconds, of the workers and of PostgreSQL."""
        found = Counter(python=machine.cpu_seconds(self.process.pid))
        if self.ground.postmaster:
            found["postgresql"] = machine.cpu_seconds(self.ground.postmaster)
        return found
