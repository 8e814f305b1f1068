"""From a request to token sequences: layout, chat template, tokenizer, positions, truncation."""
