"""In: captions. Out: what the diffusion model's text encoder makes of them, [M, 77, D], cached on disk."""
