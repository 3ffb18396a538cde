"""Make sure, once per process, that there is something to serve from."""

import time
from functools import cache

from ticketboss import config as configuration
from ticketboss.config import Config, ConfigurationError
from ticketboss.data import migrations
from ticketboss.data.database import ConnectionLost, Database, Rejected
from ticketboss.data.migrations import MigrationError
from ticketboss.data.store import Store
from ticketboss.rules import limits
from ticketboss.rules.errors import Unavailable
from ticketboss.serving import embedded
from ticketboss.serving.embedded import EmbeddedError

DEFAULT_EVENT_NAME = "Node.js Meet-up"
DEFAULT_EVENT_SEATS = 500


def load_config() -> Config:
    """Return the configuration; exit with one line and status 1 if it is wrong."""
    try:
        return configuration.load()
    except ConfigurationError as error:
        raise SystemExit(f"ticketboss: {error}") from None


def prepare(config: Config | None = None) -> tuple[Config, str]:
    """Return the configuration and the connection string of a ready database.

    Starts the embedded PostgreSQL where no DATABASE_URL is given, migrates, and
    creates the default event if it is missing. Exits with one line and status 1
    if any of it fails.
    """
    config = config or load_config()
    try:
        dsn = config.database_url or embedded.use(config.data)
        _migrate_and_seed(dsn, config.event_id)
    except (EmbeddedError, MigrationError) as error:
        raise SystemExit(f"ticketboss: {error}") from None
    return config, dsn


@cache
def _migrate_and_seed(dsn: str, event_id: str) -> None:
    """Do it once per process, and not again in the workers forked from it.

    So a worker that is replaced while the database is away starts all the same.
    """
    database = Database(dsn, size=1)
    deadline = time.monotonic() + limits.STARTUP_PATIENCE
    while True:
        try:
            migrations.migrate(database)
            Store(database).create_event(event_id, DEFAULT_EVENT_NAME, DEFAULT_EVENT_SEATS)
        except (Unavailable, ConnectionLost):
            if time.monotonic() > deadline:
                reason = database.last_failure or "no answer in time"
                raise MigrationError(f"the database cannot be reached: {reason}") from None
            time.sleep(0.2)
        except Rejected as rejection:
            reason = str(rejection).partition("\n")[0]
            raise MigrationError(f"the database cannot be prepared: {reason}") from None
        else:
            return database.close()
