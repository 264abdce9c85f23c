"""Clients of the service, whose predictions equal the engine's own."""
