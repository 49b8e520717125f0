"""Moves a trading desk's B3 market data from loose files to QuestDB, and proves that nothing was lost."""
