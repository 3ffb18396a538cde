"""Make sure, once per process, that there is something to serve from."""

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache

from ticketboss import config as configuration
from ticketboss import logs
from ticketboss.config import Config, ConfigurationError
from ticketboss.data import migrations
from ticketboss.data.database import Conflict, ConnectionLost, Database, Rejected
from ticketboss.data.migrations import MigrationError
from ticketboss.data.store import Store
from ticketboss.rules import limits
from ticketboss.rules.errors import Unavailable
from ticketboss.serving import embedded
from ticketboss.serving.embedded import EmbeddedError

log = logging.getLogger(__name__)

DEFAULT_EVENT_NAME = "Node.js Meet-up"
DEFAULT_EVENT_SEATS = 500


def load_config() -> Config:
    """Return the configuration; exit with one line and status 1 if it is wrong."""
    try:
        return configuration.load()
    except ConfigurationError as error:
        raise SystemExit(f"ticketboss: {error}") from None


def migrate() -> None:
    """Bring the database's schema up to date; exit with one line and status 1 if it fails."""
    config = load_config()
    logs.configure(config.log_format)
    with _one_line():
        _patiently(_dsn(config), migrations.migrate)
    log.info("nothing is left to migrate")


def prepare(config: Config | None = None) -> tuple[Config, str]:
    """Return the configuration and the connection string of a ready database.

    Starts the embedded PostgreSQL where no DATABASE_URL is given, migrates unless
    AUTO_MIGRATE is off, and creates the default event if it is missing. Exits with
    one line and status 1 if any of it fails.
    """
    config = config or load_config()
    with _one_line():
        dsn = _dsn(config)
        _make_ready(dsn, config.auto_migrate, config.event_id)
    return config, dsn


@contextmanager
def _one_line():
    try:
        yield
    except (EmbeddedError, MigrationError) as error:
        raise SystemExit(f"ticketboss: {error}") from None


def _dsn(config: Config) -> str:
    return config.database_url or embedded.use(config.data)


@cache
def _make_ready(dsn: str, auto_migrate: str, event_id: str) -> None:
    """Do it once per process, and not again in the workers forked from it.

    So a worker that is replaced while the database is away starts all the same.
    """
    bring = migrations.migrate if auto_migrate == "on" else migrations.check

    def work(database: Database) -> None:
        bring(database)
        Store(database).create_event(event_id, DEFAULT_EVENT_NAME, DEFAULT_EVENT_SEATS)

    _patiently(dsn, work)


def _patiently(dsn: str, work: Callable[[Database], None]) -> None:
    """Do some work on a database as soon as that answers."""
    database = Database(dsn, size=1, quiet=True)
    deadline = time.monotonic() + limits.STARTUP_PATIENCE
    while True:
        try:
            work(database)
        except (Unavailable, Conflict, ConnectionLost):
            if time.monotonic() > deadline:
                reason = database.last_failure or "no answer in time"
                raise MigrationError(f"the database cannot be reached: {reason}") from None
            time.sleep(0.2)
        except Rejected as rejection:
            reason = str(rejection).partition("\n")[0]
            raise MigrationError(f"the database cannot be prepared: {reason}") from None
        else:
            return database.close()
