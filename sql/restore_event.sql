-- Put back an event's row from a file, where it is missing.
INSERT INTO events
SELECT *
FROM jsonb_populate_record(NULL::events, %(event)s)
ON CONFLICT (event_id) DO NOTHING;
