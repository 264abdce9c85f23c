"""The parity gate: what an export built, compared with the float32 PyTorch model."""
