"""Backups of a home: made, listed, kept for so long, verified by restoring them, and restored."""
