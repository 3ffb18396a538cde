-- List keys, newest last: all, or a partner's.
--
-- A row each:  the key, without its digest.
SELECT key_id, kind, partner_id, created_at, last_used_on, revoked_at
FROM keys
WHERE (%(partner_id)s::text IS NULL OR partner_id = %(partner_id)s)
  AND (%(after)s::text IS NULL
       OR (created_at, key_id) > (
           SELECT created_at, key_id
           FROM keys
           WHERE key_id = %(after)s
       ))
ORDER BY created_at, key_id
LIMIT %(limit)s;
