"""Alerts: from facts that are red or green to messages that people get, once, on every channel that works."""
