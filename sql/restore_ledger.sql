-- Put back rows of the ledger from a file, where they are missing.
INSERT INTO ledger
SELECT *
FROM jsonb_populate_recordset(NULL::ledger, %(rows)s)
ON CONFLICT (event_id, version) DO NOTHING;
