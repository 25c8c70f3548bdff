"""Policy: what a box may reach, spend and push. Pure: no clock, no file, no network in here."""
