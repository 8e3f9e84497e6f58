"""What people read after a run. Everything here reads run directories only."""
