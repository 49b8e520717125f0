"""LowDB → PostgreSQL: the desk's ideas and documentation, from JSON files to tables, and back while anybody wants."""
