"""From bytes to records and rejects: pure functions, no I/O, no Dagster."""
