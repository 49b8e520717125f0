"""TP-Capital: its bots' tokens, its exports, and what becomes of a signal that somebody deletes."""
