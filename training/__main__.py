"""`python -m training`, which `accelerate launch -m training` and `torchrun -m training` start too."""

from .cli import main

raise SystemExit(main())
