-- Tell whether a batch whose answer was lost has been committed, and is durable.
--
-- The row lock makes this a transaction that writes: under synchronous
-- replication it returns only when everything before it is on the standby.
--
-- One row:  it was committed; at is the time that all its changes carry.
-- No row:   it was not.
SELECT at
FROM ledger
WHERE event_id = %(event_id)s
  AND version = %(version)s + 1
  AND batch_id = %(batch_id)s
FOR UPDATE;
