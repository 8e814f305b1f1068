"""Encoders (BERT and its relatives) with a classifier: traced by optimum-onnx, not built from a dialect's operations.

`read_encoder_spec` understands such a checkpoint from its files alone; `store_encoder` traces it, which needs the extra
`[optimum]`, and moves its weights into a safetensors file of the bundle. `rmexport.verify.encoder_reference` computes
what transformers computes, for `verify`.
"""

from rmexport.encoders.spec import EncoderSpec, is_encoder, read_encoder_spec
from rmexport.encoders.store import StoredEncoder, store_encoder

__all__ = ["EncoderSpec", "StoredEncoder", "is_encoder", "read_encoder_spec", "store_encoder"]
