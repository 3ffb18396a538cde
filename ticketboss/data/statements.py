"""Load the SQL of `sql/`, as the database gets it.

A statement calls a function of ours by a name in braces: `{write_batch}` stands for
the function of `sql/functions/write_batch.sql`, in that file too. In the database its
name ends in a digest of its text, so one that is there is never changed, and releases
with different texts each find their own.
"""

import hashlib
import re
from functools import cache
from importlib import resources
from typing import NamedTuple


class Function(NamedTuple):
    """A function's name in the database, and the SQL that creates it."""

    name: str
    sql: str


@cache
def statement(name: str) -> str:
    """Return the SQL of `sql/<name>.sql` without its comments."""
    text = resources.files("ticketboss.sql").joinpath(f"{name}.sql").read_text("utf-8")
    return re.sub(r"\{(\w+)\}", lambda call: functions()[call[1]].name, without_comments(text))


@cache
def functions() -> dict[str, Function]:
    """Return every function of `sql/functions/` by its name there."""
    found = {}
    for file in resources.files("ticketboss.sql.functions").iterdir():
        if file.name.endswith(".sql"):
            plain = file.name.removesuffix(".sql")
            sql = without_comments(file.read_text("utf-8"))
            name = f"{plain}_{hashlib.sha256(sql.encode()).hexdigest()[:8]}"
            found[plain] = Function(name, sql.replace(f"{{{plain}}}", name))
    return found


def without_comments(sql: str) -> str:
    """Drop the lines of `sql` that are comments or empty.

    psycopg2 would interpolate a placeholder inside a comment, where a newline in
    the value ends the comment; so the driver never sees one.
    """
    lines = (
        line for line in sql.splitlines() if line.strip() and not line.lstrip().startswith("--")
    )
    return "\n".join(lines)
