"""The QuestDB engine: embedded server, client, schema."""
