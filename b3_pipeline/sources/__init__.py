"""Where bytes come from: the table of sources, their clients, the collector, the raw archive. No Dagster, no database."""
