"""In: paths, URLs, manifests, tar shards. Out: their bytes, rows and members. Files are written whole or not at all."""
