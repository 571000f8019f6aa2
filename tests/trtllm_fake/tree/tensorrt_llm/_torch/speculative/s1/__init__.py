"""The drafter before 1.2.0rc8."""
