"""The embedded default: data alone, and `names.py`, which says where they lie; README.md tells how they were trained.

`encoder/` is an `AudioEncoder`, `diffusion/` a `StableDiffusionPipeline` with the text encoder that taught the former.
"""
