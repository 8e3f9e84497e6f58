"""LightningModules, one for each kind of training: they join networks and losses, and hold no formulas."""
