"""From token sequences to passes of the engine: batches, shared prefixes, inputs, outputs."""
