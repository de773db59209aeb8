"""In: `Conditioning` and settings. Out: images, PNG files with their settings, and video."""
