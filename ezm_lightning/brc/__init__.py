"""BRC, the second agent: model-free, a wide categorical critic for all tasks (Nauman et al. 2025, arXiv 2505.23150)."""
