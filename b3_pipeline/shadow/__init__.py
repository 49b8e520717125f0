"""The shadow of the tables: the six legacy files made from them, while legacy readers live (ADR 13)."""
