-- Tell whether the table that remembers the migrations is there.
--
-- One row:  whether it is.
SELECT to_regclass('schema_migrations') IS NOT NULL AS found;
