"""From a command line to a checked config: the folder of configs, composing, checks, launching, sweeps."""
