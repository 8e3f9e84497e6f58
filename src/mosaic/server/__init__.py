"""The server's half: aggregation, experts, generated images, distillation. It cannot name a data set."""
