"""Ray actors share the clients out."""
