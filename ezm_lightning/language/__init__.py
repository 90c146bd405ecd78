"""Instructions and their encoders. Weights come from an installed package; none are fetched."""
