"""Checks of this code against the reference implementation: golden vectors and exact parameter counts."""
