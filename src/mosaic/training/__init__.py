"""How a phase is run: tasks' base, optimisation, a Trainer for each, signals, silence."""
