"""Attack a client's uploads as an honest but curious server could, on the client, before anybody else does."""
