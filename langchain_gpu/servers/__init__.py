"""Clients of servers that run a model: addresses, protocols, retries, errors."""
