"""The SQL of TicketBoss: one statement per file, loaded by ticketboss.data.statements."""
