"""What several test files share: generated audio, documentation pages, workflows, checkpoints in foreign layouts."""
