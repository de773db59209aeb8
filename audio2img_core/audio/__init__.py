"""In: files, ComfyUI's AUDIO, blocks of samples. Out: mono waveforms [T] float32 at 16 kHz, and log-mel features."""
