"""Checks against the reference implementation: golden vectors and exact parameter counts."""
