"""`python -m audio2img_core.cli`."""

from .main import main

raise SystemExit(main())
