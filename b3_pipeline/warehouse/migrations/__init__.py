"""The versions of the schema `warehouse`, which Alembic applies. Each says in SQL what it makes; none is ever changed."""
