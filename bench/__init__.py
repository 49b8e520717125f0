"""Benchmarks against real servers: what is measured, on which made-up files, and how it is shown."""
