"""Instructions and encoders."""
