"""Texts to float32 rows, as fast as the device allows, and never dying."""
