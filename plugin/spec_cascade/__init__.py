"""Speculative cascades: a drafter proposes, a target scores, a deferral rule decides token by token whose token stands."""
