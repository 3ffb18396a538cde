-- List the migrations that have been applied.
--
-- A row for each, in their order.
SELECT version, name FROM schema_migrations ORDER BY version;
