"""Files of a run: written whole or not at all, read without running code of theirs, the newest intact one found."""
