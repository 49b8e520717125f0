"""One version a module, with its SQL beside it."""
