-- Find out whether the server takes writes, without any.
--
-- The row lock makes this a transaction that writes: a server that takes none
-- says why, and under synchronous replication it returns only when everything
-- before it is on the standby. It is the weakest there is; what it waits for is a
-- transaction of ours that hangs, or that comes to its end.
--
-- One row:  it does.
-- No row:   there is no event: nobody knows.
SELECT event_id
FROM events
ORDER BY event_id
LIMIT 1
FOR KEY SHARE;
