"""The client library and its command, against small real servers."""
