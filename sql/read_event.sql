-- Read an event as it is now: see functions/read_event.sql.
--
-- One row:  the event. unsettled: a hold has expired and is not in the ledger yet.
-- No row:   there is no such event.
SELECT * FROM {read_event}(%(event_id)s);
