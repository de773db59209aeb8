"""In: log-mel windows [B, F, 160]. Out: `AudioEmbeddings`, tokens [B, N, D] of a text encoder's width."""
