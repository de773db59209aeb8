"""In: `AudioEmbeddings` and text. Out: `Conditioning`, a diffusion model's prompt tokens, and captions with scores."""
