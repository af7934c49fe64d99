"""Encoders and rerankers that a server runs: one file per form of request."""
