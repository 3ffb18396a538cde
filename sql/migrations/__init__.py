"""Numbered, forward-only changes to the schema, applied by ticketboss.data.migrations."""
