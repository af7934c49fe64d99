"""`make demo`: ask the documentation that lies on this machine, with no network."""
