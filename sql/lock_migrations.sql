-- Let one process at a time migrate; the others wait here and then find nothing to do.
--
-- The number is arbitrary and only has to be the same for every process.
SELECT pg_advisory_xact_lock(7421563081);
