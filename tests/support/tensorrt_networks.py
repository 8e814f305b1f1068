"""What TensorRT made of a graph."""

from rmexport.compile.network import Network


def fused_attentions(network: Network) -> int:
    """How many attention layers the parser fused."""
    layers = (network.definition.get_layer(i) for i in range(network.definition.num_layers))
    return sum(str(layer.type).endswith(".ATTENTION_INPUT") for layer in layers)
