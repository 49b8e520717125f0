"""What leaves QuestDB and where it goes: exports, retention, the warehouse in PostgreSQL."""
