-- Let one process at a time migrate, until its transaction ends. The others come again:
-- waiting here they would hold a snapshot, for which some changes of a schema wait.
--
-- The number is arbitrary and only has to be the same for every process.
--
-- One row:  whether it is this one.
SELECT pg_try_advisory_xact_lock(7421563081) AS locked;
