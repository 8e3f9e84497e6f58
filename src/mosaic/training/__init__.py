"""Run training phases: the base class of tasks, optimisers, a Trainer for each phase, signals."""
