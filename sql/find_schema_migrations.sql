-- Tell whether the table that remembers the migrations is there: where it is, nobody
-- needs the right to create one.
--
-- One row:  whether it is.
SELECT to_regclass('schema_migrations') IS NOT NULL;
