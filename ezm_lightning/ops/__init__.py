"""Formulas: tensor in, tensor out; no parameters, no state."""
