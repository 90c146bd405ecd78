"""One file per verb of ``ezm``. Only these files print and know the whole river."""
