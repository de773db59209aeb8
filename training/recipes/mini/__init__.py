"""The recipe of `mini`, the embedded default: its data here, its training beside it."""
