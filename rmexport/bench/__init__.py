"""`rmexport bench`: a bundle and what a user would pick instead, measured fairly in one run on one machine."""
