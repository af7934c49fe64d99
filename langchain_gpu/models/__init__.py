"""Models without loading them: their files, and what the headers say."""
