-- Check the form of an event's id in 0.3 microseconds instead of 6.
--
-- A CHECK runs for every update of its row, whatever columns that changes. The
-- regular expression counted up to 64 characters, which cost more than the update.
ALTER TABLE events
    DROP CONSTRAINT events_id_is_printable,
    ADD CONSTRAINT events_id_is_printable CHECK (
        length(event_id) BETWEEN 1 AND 64
        AND event_id !~ '[^a-z0-9._-]'
    );
