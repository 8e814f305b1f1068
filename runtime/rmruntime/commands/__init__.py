"""What commands share around their work: standard streams, signals, errors, exit statuses."""
