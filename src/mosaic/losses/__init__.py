"""Training losses as pure functions of tensors. They live here and nowhere else."""
