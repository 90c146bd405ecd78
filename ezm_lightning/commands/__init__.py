"""One file a verb of ``ezm``; they alone print and know the whole river."""
