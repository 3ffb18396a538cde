-- Let events be archived: their reservations and ledgers are in a file then.
--
-- serves: 4
--
-- The row stays, so that its id is not given to another event. Nobody changes it, not
-- even a release that does not know of this: it would make another version.
ALTER TABLE events
    ADD COLUMN archived_version bigint,
    ADD CONSTRAINT events_archived_stays CHECK (version = archived_version);
