"""The routes of the idea bank and the documentation (FORMATS §6): one set of them for every collection of LowDB."""
