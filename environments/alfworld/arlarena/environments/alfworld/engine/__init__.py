"""The native engine: its texts equal those of TextWorld exactly."""
