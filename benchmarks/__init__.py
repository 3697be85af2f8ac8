"""Measurements against references and peers: ``python -m benchmarks.<name>``, one file a question."""
