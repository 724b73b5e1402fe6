"""The trainer: `accelerate launch train/`."""
