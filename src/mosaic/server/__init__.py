"""The server's half: aggregation, experts, generated images, distillation. It cannot import data sets."""
