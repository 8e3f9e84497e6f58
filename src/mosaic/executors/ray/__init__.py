"""Share clients out over Ray actors."""
