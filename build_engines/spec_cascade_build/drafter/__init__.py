"""Drafters: made from a target, and scored against it."""
