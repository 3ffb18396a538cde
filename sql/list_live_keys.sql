-- List the keys that can be used, those of the latest use first.
--
-- A row each:  the key, in the columns of read_key.sql.
SELECT key_id, digest, kind, partner_id, created_at, last_used_on, revoked_at,
       (now() AT TIME ZONE 'UTC')::date AS today
FROM keys
WHERE revoked_at IS NULL
ORDER BY last_used_on DESC NULLS FIRST
LIMIT %(limit)s;
