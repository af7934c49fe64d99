"""A store on disk: a manifest, generations of files, no pickle."""
