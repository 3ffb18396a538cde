"""Functions, each as it is now, created by ticketboss.data.migrations where they are missing."""
