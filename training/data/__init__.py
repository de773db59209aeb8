"""In: folders, manifests, shards and datasets of audio with captions. Out: batches of windows with their captions."""
