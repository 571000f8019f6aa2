"""``spec-cascade bench``: an engine measured against itself without drafts, and against transformers."""
