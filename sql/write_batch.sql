-- Write the changes of one batch, event by event, where the event is as their
-- decisions suppose it.
--
-- The statements are in functions/write_batch.sql.
--
-- A row for an event:  written, on top of seen_version; at is the time that all its
--                      changes carry. Or not written, because another transaction
--                      has the event's row, or a reservation that changes: stuck_ids
--                      are those reservations of the batch.
-- No row for one:      not written, because it is not as supposed; with atomic, because
--                      another one was not written.
SELECT event_id, seen_version, written, at, stuck_ids::text[]
FROM {write_batch}(%(batch_id)s, %(parts)s, %(atomic)s);
