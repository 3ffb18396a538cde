-- Make the table that remembers which migrations have been applied.
--
-- serves is the oldest version that a release may know to serve the database since.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    serves integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
