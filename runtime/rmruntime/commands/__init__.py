"""The frame of every command: standard streams, signals, errors, exit statuses, engine arguments, progress bars."""
