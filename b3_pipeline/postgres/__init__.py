"""The PostgreSQL engine: embedded server, and what our processes share through it."""
