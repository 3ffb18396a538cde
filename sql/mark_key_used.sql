-- Remember that a key was used today, unless that is known or somebody has its row.
--
-- Nobody is to wait for this: not even for it to be durable.
--
-- One row:  it is remembered.
-- No row:   it is not, for want of anything to do, or just now.
WITH used AS MATERIALIZED (
    SELECT key_id, set_config('synchronous_commit', 'off', true)
    FROM keys
    WHERE key_id = %(key_id)s
      AND last_used_on IS DISTINCT FROM (now() AT TIME ZONE 'UTC')::date
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE keys
SET last_used_on = (now() AT TIME ZONE 'UTC')::date
FROM used
WHERE keys.key_id = used.key_id
RETURNING keys.key_id;
