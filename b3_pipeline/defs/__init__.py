"""All that is Dagster: assets, jobs, resources. Thin: the rules live elsewhere."""
