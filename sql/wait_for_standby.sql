-- Make sure that what the statement after this one reads is durable, without locking a row.
--
-- Both go as one message, which is one transaction of one server. The message that is
-- emitted goes into the write-ahead log and nowhere else. So this is a transaction that
-- writes: under synchronous replication it returns only when everything before it is on
-- the standby, and never on a primary that has been replaced. Where no standby is waited
-- for, whatever can be seen is as durable as it gets, and nothing is written. On a standby
-- the transaction's id is what it refuses as read-only (25006): the message would be an error
-- of its inside (XX000).
SELECT CASE
    WHEN pg_current_xact_id() IS NOT NULL THEN pg_logical_emit_message(true, 'ticketboss', '')
END
WHERE current_setting('synchronous_standby_names') <> '' OR pg_is_in_recovery();
