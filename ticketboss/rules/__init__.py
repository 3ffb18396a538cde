"""What requests do to an event, as decisions: no HTTP, no SQL, no clock."""
