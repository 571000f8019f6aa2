"""Requests, their sampling parameters, and the loop that decodes them."""
