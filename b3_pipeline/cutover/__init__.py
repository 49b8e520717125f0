"""The cutover: how the desk goes from files to QuestDB and back, step by step, each with its gates (ADR 21)."""
