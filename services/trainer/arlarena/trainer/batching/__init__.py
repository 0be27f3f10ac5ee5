"""From collected groups to micro-batches."""
