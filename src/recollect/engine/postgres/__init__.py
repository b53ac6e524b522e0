"""PostgreSQL: the schema, and how portable statements are written there."""
