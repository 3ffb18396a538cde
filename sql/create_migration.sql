-- Remember that a migration has been applied.
INSERT INTO schema_migrations (version, name, serves)
VALUES (%(version)s, %(name)s, %(serves)s);
