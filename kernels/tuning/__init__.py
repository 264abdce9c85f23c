"""Tuning: what each kernel launch costs, compiled or timed, and the table of tiles made from it."""
