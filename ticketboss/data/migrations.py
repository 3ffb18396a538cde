"""Bring a database to the schema, and to the functions, that this code expects."""

import re
from functools import cache
from importlib import resources

from ticketboss.data.database import Database
from ticketboss.data.statements import functions, statement, without_comments


class MigrationError(Exception):
    """The database cannot be brought to this code's schema; the message is one line."""


def migrate(database: Database) -> None:
    """Apply the migrations and create the functions that the database lacks.

    Each migration is a transaction of its own. An advisory lock lets one process at
    a time do it; the others then find nothing left. Raises MigrationError where the
    database is newer than the code, has another history or refuses a migration, and
    what Database.transaction raises.
    """
    done = False
    while not done:
        with database.transaction() as run:
            run(statement("lock_migrations"))
            done = not _apply_next(run)
            if done:
                _create_functions(run)


def _apply_next(run) -> bool:
    """Apply the first migration that is missing; tell whether there was one."""
    if run(statement("find_schema_migrations")) == [(False,)]:
        run(statement("create_schema_migrations"))
    applied = dict(run(statement("list_migrations")))
    ours = migrations()
    for version, name in applied.items():
        if version in ours and name != ours[version][0]:
            raise MigrationError(
                f"the database was made before the first release ({name}) and cannot be"
                " kept: remove the data folder, or use an empty database"
            )
    newest, version = max(ours), max(applied, default=0)
    if version > newest:
        raise MigrationError(
            f"the database has schema version {version}, newer than the {newest} of"
            " this release: start a newer release"
        )
    if version == newest:
        return False
    version += 1
    name, sql = ours[version]
    run(without_comments(sql))
    run(statement("create_migration"), {"version": version, "name": name})
    return True


def _create_functions(run) -> None:
    for function in functions().values():
        if run(statement("find_function"), {"name": function.name}) == [(False,)]:
            run(function.sql)


@cache
def migrations() -> dict[int, tuple[str, str]]:
    """Return the name and SQL of every migration by its number."""
    found = {}
    for file in resources.files("ticketboss.sql.migrations").iterdir():
        if match := re.fullmatch(r"(([0-9]{4})_\w+)\.sql", file.name):
            found[int(match[2])] = match[1], file.read_text("utf-8")
    return found
