"""What a run stands on: a database, the service on it, and their counts."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psycopg2
from psycopg2 import extensions

from tests import serving
from tests.benchmark import machine
from tests.benchmark.load import CannotMeasure
from ticketboss.config import Config
from ticketboss.serving import startup
from ticketboss.serving.embedded import EmbeddedError

SEATS = 10_000_000
# Settings without which an acknowledged reservation could be lost, and the numbers mean nothing.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
COUNTERS_PATIENCE = 10
# How soon a service at rest answers, and how long to wait for that; both in seconds.
REST_ANSWER = 0.02
REST_PATIENCE = 1
# Commits that wait for a slow disk or a standby. The wait is once in a transaction, at its
# end, however many rows it has written.
SLOW_COMMITS = """
CREATE FUNCTION benchmark_slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('benchmark.waited', true) IS DISTINCT FROM 'yes' THEN
        PERFORM set_config('benchmark.waited', 'yes', true), pg_sleep(0.004);
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER benchmark_slow_commit
AFTER INSERT OR UPDATE ON reservations DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION benchmark_slow_commit()
"""


class Ground:
    """A database, with events that belong to this run alone."""

    def __init__(self, config: Config, dsn: str, prefix: str, lent: bool = False):
        self.config = config
        self.dsn = dsn
        self.prefix = prefix
        self.lent = lent

    def event(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def sql(self, statement: str, parameters=None) -> list[tuple]:
        return serving.run_sql(self.dsn, statement, parameters)

    def require_durability(self) -> dict[str, str]:
        """Return the settings that make a commit durable; raise CannotMeasure if one is off."""
        settings = {name: self.sql(f"SHOW {name}")[0][0] for name in DURABLE}
        off = [name for name, value in settings.items() if value in ("off", "local")]
        if off:
            raise CannotMeasure(f"{off[0]} is off on this database: its commits are not durable")
        return settings

    def remove_events(self) -> None:
        """Remove this run's rows from a database that is not its own."""
        with contextlib.suppress(psycopg2.errors.UndefinedTable):  # no service came so far
            for table in ("ledger", "reservations", "events"):
                self.sql(f"DELETE FROM {table} WHERE starts_with(event_id, %s)", (self.prefix,))

    def tidy_up(self) -> None:
        """Do now what PostgreSQL would do by itself during some slice or other."""
        self.sql("VACUUM ANALYZE")
        with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
            self.sql("CHECKPOINT")

    @contextlib.contextmanager
    def slow_commits(self):
        """Let every commit of reservations take 4 ms longer until the block ends."""
        self.sql(SLOW_COMMITS)
        try:
            yield
        finally:
            self.sql("DROP FUNCTION benchmark_slow_commit() CASCADE")

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
            yield Ground(self.config, dsn, self.prefix)
        finally:
            self.sql(f'DROP DATABASE "{database}" WITH (FORCE)')

    @cached_property
    def postmaster(self) -> int | None:
        """Return the server's process; None if it is not on this machine."""
        with contextlib.closing(serving.connect(self.dsn)) as connection:
            backend = connection.info.backend_pid
            if machine.name(backend) in ("postgres", "postmaster"):
                return machine.parent(backend)
        return None


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
    config = configuration()
    prefix = new_prefix()
    with contextlib.ExitStack() as stack:
        if config.database_url:
            dsn = config.database_url
        else:
            folder = stack.enter_context(temporary_folder())
            try:
                with undisturbed():
                    dsn = stack.enter_context(serving.postgresql(folder))
            except EmbeddedError as error:
                raise CannotMeasure(str(error)) from None
        found = Ground(config, dsn, prefix, lent=bool(config.database_url))
        if found.lent:
            stack.callback(found.remove_events)
        yield found


def configuration() -> Config:
    try:
        return startup.load_config()
    except SystemExit as failure:
        raise CannotMeasure(str(failure).removeprefix("ticketboss: ")) from None


def new_prefix() -> str:
    """Return what the names of a run's events begin with."""
    return f"benchmark-{time.time_ns() // 1_000_000 % 10**9:09d}"


@contextlib.contextmanager
def temporary_folder():
    folder = serving.new_folder("ticketboss-benchmark-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Checkout:
    """A folder with the project, and the interpreter that has this folder's package and SQL."""

    name: str
    folder: Path
    python: Path

    @property
    def gunicorn_configuration(self) -> str:
        # Where it is now, or where it was.
        now = self.folder / "ticketboss" / "serving" / "gunicorn_conf.py"
        return "ticketboss.serving.gunicorn_conf" if now.exists() else "ticketboss.gunicorn_conf"


THIS = Checkout("this", serving.ROOT, Path(sys.executable))


class Service(serving.Server):
    """The service of a checkout under gunicorn, with the benchmark's no-op and counters.

    With a folder for data it starts a PostgreSQL of its own there, as `make run` does.
    """

    def __init__(
        self, ground: Ground, checkout: Checkout = THIS, data: Path | None = None, **settings: str
    ):
        config = ground.config
        super().__init__(
            None if data else ground.dsn,
            checkout.folder,
            TICKETBOSS_DATA=str(data or ""),
            EVENT_ID=ground.event("first"),
            HOST="127.0.0.1",
            AUTH="open",
            LOG_FORMAT="json",
            WORKERS=str(config.workers),
            THREADS=str(config.threads),
            POOL_SIZE=str(config.pool_size),
            **settings,
        )
        self.ground = ground
        self.name = checkout.name
        self.python = checkout.python
        self.command = [
            *(self.python, "-m", "gunicorn", "-c", f"python:{checkout.gunicorn_configuration}"),
            "tests.benchmark.application:application()",
        ]

    def start(self, wait: bool = True) -> "Service":
        self.process = subprocess.Popen(
            self.command,
            cwd=self.checkout,
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

    def create(self, *names: str, **more) -> None:
        """Create events that belong to this run."""
        with contextlib.closing(self.client()) as client:
            for name in names:
                event = {
                    "eventId": self.ground.event(name),
                    "name": name,
                    "totalSeats": SEATS,
                    **more,
                }
                answer = client.post("/api/v1/events", event, **serving.ADMIN)
                if answer.status != 201:
                    raise CannotMeasure(f"the service created no event: {answer.body.decode()}")

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
