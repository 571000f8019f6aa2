"""A long run of the embedded engine under everything that clients and models do to it."""
