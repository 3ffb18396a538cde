"""Bring a database to the schema, and to the functions, that this code expects."""

import logging
import re
import time
from collections.abc import Callable
from datetime import timezone
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from ticketboss.data.database import Database, Row
from ticketboss.data.statements import functions, statement, without_comments
from ticketboss.rules import limits
from ticketboss.rules.errors import Unavailable

log = logging.getLogger(__name__)

# What runs a statement and returns its rows.
Run = Callable[..., list[Row]]


class MigrationError(Exception):
    """The database cannot be brought to what this code needs; the message is one line."""


class Migration(NamedTuple):
    """A change of the schema."""

    name: str
    sql: str
    # The oldest version that a release may know to serve the database afterwards.
    serves: int


class Step(NamedTuple):
    """Something that a database lacks, and the statements of the transaction that brings it."""

    name: str
    statements: list[tuple[str, dict[str, Any] | None]]


def check(database: Database) -> None:
    """Raise MigrationError unless this code can serve the database as it is."""
    if steps := _missing(database.read):
        names = ", ".join(step.name for step in steps)
        raise MigrationError(f"the database lacks {names}, and AUTO_MIGRATE is off: migrate first")


def migrate(database: Database) -> None:
    """Apply the migrations and create the functions that the database lacks.

    One process at a time does it, a step in a transaction of its own; who lacks
    nothing waits for nobody. Raises MigrationError where the database serves only
    newer code, has another history or is locked for too long, and what
    Database.transaction raises.
    """
    patience = _Patience("the migration")
    while _missing(database.read):
        # Held between the tries of a step, too, so that only one process makes any.
        with database.transaction() as run:
            if run(statement("lock_migrations"))[0].locked:
                for step in _missing(run):
                    _take(step, database, run)
            else:
                patience.pause(run)


def _take(step: Step, database: Database, run: Run) -> None:
    """Take a step, in tries that wait for each lock so briefly that nobody notices.

    Who waits for a table to himself lets nobody else have it meanwhile, so a long
    reader, a backup say, would stop the sale for as long as it reads.
    """
    patience = _Patience(step.name)
    while True:
        try:
            with database.transaction() as attempt:
                attempt(f"SET LOCAL lock_timeout = {limits.MIGRATION_LOCK_TIMEOUT_MS}")
                for sql, parameters in step.statements:
                    attempt(sql, parameters)
        except Unavailable:
            patience.pause(run)
        else:
            log.info("the database has %s now", step.name)
            return


class _Patience:
    """The time that something has to get its locks."""

    def __init__(self, name: str):
        self.name = name
        self._end = time.monotonic() + limits.MIGRATION_PATIENCE
        self._told = ""

    def pause(self, run: Run) -> None:
        """Let the others be served, and tell who is in the way; raise MigrationError at the end."""
        seconds = limits.MIGRATION_LOCK_TIMEOUT_MS / 1000
        holders = run(statement("find_lock_holder"), {"seconds": seconds})
        told = f"{self.name} waits for {_session(holders[0]) if holders else 'the database'}"
        if time.monotonic() > self._end:
            raise MigrationError(f"{told}; given up after {limits.MIGRATION_PATIENCE:g} s")
        if told != self._told:
            log.warning(told)
        self._told = told
        time.sleep(limits.MIGRATION_PAUSE)


def _session(holder: Row) -> str:
    """Name a session; of another role's, not everybody may see more than the pid."""
    name = f" ({holder.name})" if holder.name else ""
    since = "an unknown time"
    if holder.since:
        since = f"{holder.since.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    return f"session {holder.pid}{name}, in a transaction since {since}"


def _missing(run: Run) -> list[Step]:
    """Return what a database lacks, in the order in which it has to come."""
    ours, newest = migrations(), max(migrations())
    applied: dict[int, str] = {}
    if run(statement("find_schema_migrations"))[0].found:
        applied = {row.version: row.name for row in run(statement("list_migrations"))}
        for version in ours.keys() & applied.keys():
            if applied[version] != ours[version].name:
                raise MigrationError(
                    f"the database was made before the first release ({applied[version]}) and"
                    " cannot be kept: remove the data folder, or use an empty database"
                )
        schema = run(statement("read_schema_version"))[0]
        if schema.serves > newest:
            raise MigrationError(
                f"the database has schema version {schema.version}, for releases that know"
                f" version {schema.serves}; this one knows {newest}: start a newer release"
            )
    steps = []
    for version in sorted(ours.keys() - applied.keys()):
        name, sql, serves = ours[version]
        statements = [
            (statement("create_schema_migrations"), None),
            (without_comments(sql), None),
            (statement("create_migration"), {"version": version, "name": name, "serves": serves}),
        ]
        steps.append(Step(name, statements))
    for function in functions().values():
        if not run(statement("find_function"), {"name": function.name})[0].found:
            steps.append(Step(function.name, [(function.sql, None)]))
    return steps


@cache
def migrations() -> dict[int, Migration]:
    """Return every migration by its number."""
    found = {}
    for file in resources.files("ticketboss.sql.migrations").iterdir():
        if match := re.fullmatch(r"(([0-9]{4})_\w+)\.sql", file.name):
            sql = file.read_text("utf-8")
            (serves,) = re.findall(r"^-- serves: ([0-9]+)$", sql, re.MULTILINE)
            found[int(match[2])] = Migration(match[1], sql, int(serves))
    return found
