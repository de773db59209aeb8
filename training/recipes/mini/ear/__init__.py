"""How mini's encoder learns to name everyday sounds: sounds with a licence in, a trained `AudioEncoder` out."""
