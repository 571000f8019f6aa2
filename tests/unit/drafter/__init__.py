"""Tests of `spec_cascade_build.drafter`."""
