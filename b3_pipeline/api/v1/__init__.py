"""The current contract, `/api/v1`: documents in snake_case, times in ISO 8601 UTC, null where a value is absent."""
