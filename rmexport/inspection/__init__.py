"""`rmexport inspect`: what a checkpoint or a bundle is, without writing anything."""
