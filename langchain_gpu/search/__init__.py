"""Vector search: index kinds, searchers by device, filters, BM25."""
