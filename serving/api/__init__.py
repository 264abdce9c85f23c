"""The routes, a file per interface."""
