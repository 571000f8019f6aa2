"""The parts of `spec-cascade demo` that need no server."""
