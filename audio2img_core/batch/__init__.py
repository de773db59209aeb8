"""In: many clips and an encoder. Out: shards of embeddings, which machines can share, or one file of them."""
