"""`spec-cascade demo`: from a pair file to streamed answers and a table of rules, on a real Triton server.

The one place that uses all three import roots: it builds, serves and asks. Nothing imports it but the command line.
"""
