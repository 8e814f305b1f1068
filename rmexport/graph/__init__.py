"""Builds ONNX graphs: the writer, the vocabulary that families and heads speak, and the packed layout's inputs."""
