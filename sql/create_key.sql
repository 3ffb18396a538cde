-- Create a key. A second time, after an answer that was lost, it is there already.
--
-- One row:  the key, in the columns of list_keys.sql.
INSERT INTO keys (key_id, digest, kind, partner_id)
VALUES (%(key_id)s, %(digest)s, %(kind)s, %(partner_id)s)
ON CONFLICT (key_id) DO UPDATE
    SET digest = excluded.digest
    WHERE keys.digest = excluded.digest
RETURNING key_id, kind, partner_id, created_at, last_used_on, revoked_at;
