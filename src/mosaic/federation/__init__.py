"""The loop, and what surrounds it: evaluation, the run directory, the books, and the executors that reach clients."""
