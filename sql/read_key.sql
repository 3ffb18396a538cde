-- Read a key by its public id, and the date.
--
-- One row:  the key.
-- No row:   there is no such key.
SELECT key_id, digest, kind, partner_id, created_at, last_used_on, revoked_at,
       (now() AT TIME ZONE 'UTC')::date AS today
FROM keys
WHERE key_id = %(key_id)s;
