"""From a command line to a checked config: the folder of configs, composing, what classes take, launching, sweeps."""
