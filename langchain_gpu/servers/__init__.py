"""Servers that run a model: where they are, which form they speak, and asking them patiently."""
