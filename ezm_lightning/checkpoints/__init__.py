"""Files of a run: written completely or not at all, read without running code in them; the newest intact one."""
