"""How good the answers are, how sure one can be, and whether they came from the lesion."""
