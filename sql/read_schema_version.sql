-- Read the version of the schema, the number of the newest migration applied, and whether
-- the server takes writes: a standby does not, nor one that is set so.
--
-- One row:  these, and the oldest version that a release may know to serve it; 0 where
--           no migration has been applied.
SELECT
    coalesce(max(version), 0) AS version,
    coalesce(max(serves), 0) AS serves,
    current_setting('transaction_read_only')::boolean AS read_only
FROM schema_migrations;
