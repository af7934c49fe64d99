"""Features to vectors: one file per library that runs models."""
