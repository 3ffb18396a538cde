-- Make sure that everything that could be seen before is durable, without locking a row.
--
-- The message goes into the write-ahead log and nowhere else. So this is a transaction
-- that writes: under synchronous replication it returns only when everything before it
-- is on the standby, and never on a primary that has been replaced. Where no standby is
-- waited for, whatever can be seen is as durable as it gets, and nothing is written.
--
-- One row:  it is, and it was waited for.
-- No row:   it is.
SELECT pg_logical_emit_message(true, 'ticketboss', '')
WHERE current_setting('synchronous_standby_names') <> '';
