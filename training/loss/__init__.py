"""In: audio tokens and caption tokens. Out: the contrastive and token losses, over any number of processes."""
