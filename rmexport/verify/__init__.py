"""`rmexport verify`: a bundle's scores against those of transformers. `run` and `reference` import torch."""
