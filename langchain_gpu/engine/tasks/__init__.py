"""Items to features: one file per thing a model is asked to do."""
