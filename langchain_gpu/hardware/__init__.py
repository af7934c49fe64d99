"""What hardware is here, and how much memory it has."""
