"""Quality: does what is stored equal what was given, and is it what the contract says? Checks, parity, repair."""
