"""Builds engine directories from models, and checks them."""
