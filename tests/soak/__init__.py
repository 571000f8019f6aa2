"""Long runs of the embedded engine, and of a server, under everything that clients and models do to them."""
