"""The one door: everything that changes an event goes through here."""
