"""What runs inside a contestant's own Python, which may have neither rmexport nor numpy: standard library only."""
