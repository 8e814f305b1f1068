"""Sessions: solutions that grow step by step, of which each call computes only what no call before it did."""
