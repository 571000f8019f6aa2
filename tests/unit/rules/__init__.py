"""Tests of the deferral rules."""
