"""What the parties of a real federation need on disk, and a trial of it on one machine."""
