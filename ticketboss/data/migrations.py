"""Bring a database to the schema that this code expects."""

import re
from functools import cache
from importlib import resources

from ticketboss.data.database import Database, statement, without_comments


class MigrationError(Exception):
    """The database cannot be brought to this code's schema; the message is one line."""


def migrate(database: Database) -> None:
    """Apply the migrations that the database lacks, each in a transaction of its own.

    An advisory lock lets one process at a time do it; the others then find
    nothing left. Raises MigrationError where the database is newer than the
    code or refuses a migration, and what Database.transaction raises.
    """
    newest = max(migrations())
    version = None
    while version != newest:
        with database.transaction() as run:
            run(statement("lock_migrations"))
            if run(statement("find_schema_migrations")) == [(False,)]:
                run(statement("create_schema_migrations"))
            version = run(statement("read_schema_version"))[0][0]
            if version > newest:
                raise MigrationError(
                    f"the database has schema version {version}, newer than the {newest} of"
                    " this release: start a newer release"
                )
            if version < newest:
                version += 1
                name, sql = migrations()[version]
                run(without_comments(sql))
                run(statement("create_migration"), {"version": version, "name": name})


@cache
def migrations() -> dict[int, tuple[str, str]]:
    """Return the name and SQL of every migration by its number."""
    found = {}
    for file in resources.files("ticketboss.sql.migrations").iterdir():
        if match := re.fullmatch(r"(([0-9]{4})_\w+)\.sql", file.name):
            found[int(match[2])] = match[1], file.read_text("utf-8")
    return found
