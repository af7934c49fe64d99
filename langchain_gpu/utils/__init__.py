"""Small helpers that any other module may use, and that know none of them."""
