"""The versions of the schema `ideas`, which Alembic applies; their SQL lies beside them."""
