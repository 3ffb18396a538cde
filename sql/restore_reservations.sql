-- Put back rows of reservations from a file, where they are missing.
INSERT INTO reservations
SELECT *
FROM jsonb_populate_recordset(NULL::reservations, %(rows)s)
ON CONFLICT (event_id, created_version) DO NOTHING;
