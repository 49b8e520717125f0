"""Prometheus metrics: what processes count, what is asked for at scrape time, and the small server that shows both."""
