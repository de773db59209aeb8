"""Training: align an audio encoder with the tokens of a CLIP text encoder."""
