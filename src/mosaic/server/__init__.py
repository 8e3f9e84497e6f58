"""The server's half: aggregation, experts, teachers and the images they are distilled on. It cannot name a data set."""
