"""What a model is, and where its files are, without loading it."""
