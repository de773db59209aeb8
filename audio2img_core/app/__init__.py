"""The page `audio2img app`: one pair of models, any number of visitors; needs `pip install "audio2img[app]"`."""
