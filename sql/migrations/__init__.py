"""Numbered, forward-only changes to the schema, applied by ticketboss.data.migrations.

The release before goes on serving while one is applied, and may be started on it again.
So each says in a line `-- serves: N` the oldest version that a release may know to serve
the schema afterwards. What it only adds is served by who knows nothing of it. A column
or a function (by its name in the database) that only older releases use is dropped by a
later one, which serves them no longer.

Each is one transaction beside a running sale, and every request waits for what it has
locked: so none reads or rewrites a whole table that requests use. A constraint is added
NOT VALID by one and validated by the next, which locks out nobody. An index on a table
that has grown has to be built CONCURRENTLY, which no transaction can contain.
"""
