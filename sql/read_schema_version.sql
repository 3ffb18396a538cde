-- Read the number of the newest migration applied.
--
-- One row:  the number, 0 where none has been applied.
SELECT coalesce(max(version), 0) FROM schema_migrations;
