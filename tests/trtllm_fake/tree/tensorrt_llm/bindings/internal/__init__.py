"""What C++ keeps to itself."""
