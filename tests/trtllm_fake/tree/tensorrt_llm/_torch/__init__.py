"""The PyTorch workflow."""
