"""Composing and checking settings, the same for the command line and for Python."""
