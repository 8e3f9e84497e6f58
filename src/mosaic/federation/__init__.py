"""The loop over rounds, the evaluation, and what is written of both."""
