"""Reports on finished runs, and exported models. Everything here reads run directories only."""
