"""Every block is one folder here; see ``hw.block``."""
