"""The executor in Python."""
