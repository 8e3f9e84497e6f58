"""All training losses, as pure functions of tensors."""
