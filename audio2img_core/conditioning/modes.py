"""Names of the ways to treat windows and to blend prompts; apart from their code, which needs torch."""

WINDOW_MODES = ("average", "join", "keep")
BLEND_MODES = ("linear", "spherical", "join")
