-- Find who is in the way of a migration: whoever migrates already, or else whoever has
-- been in a transaction with a lock on one of our tables for the longest time, and for
-- longer than one try.
--
-- One row:  who, and since when; null is what we may not see.
-- No row:   nobody any more.
SELECT pid, coalesce(nullif(application_name, ''), backend_type) AS name, xact_start AS since
FROM pg_locks
JOIN pg_stat_activity USING (pid)
WHERE granted
  AND pid <> pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (locktype = 'advisory' AND (classid::bigint << 32) + objid::bigint = 7421563081
       OR locktype = 'relation'
      AND relation IN (SELECT oid FROM pg_class
                       WHERE relnamespace = current_schema()::regnamespace)
      AND (xact_start < clock_timestamp() - %(seconds)s * interval '1 second') IS NOT FALSE)
ORDER BY locktype, xact_start
LIMIT 1;
