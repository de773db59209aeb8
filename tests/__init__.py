"""Tests of audio2img."""
