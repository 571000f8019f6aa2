"""Offline work: checkpoints to an engine pair on disk."""
