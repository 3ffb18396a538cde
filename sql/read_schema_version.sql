-- Read the version of the schema: the number of the newest migration applied.
--
-- One row:  the number, and the oldest one that a release may know to serve it; 0 where
--           no migration has been applied.
SELECT coalesce(max(version), 0) AS version, coalesce(max(serves), 0) AS serves
FROM schema_migrations;
