"""What embedders and generators alike do to a torch model once it is loaded."""
