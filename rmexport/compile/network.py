"""Parses a graph into TensorRT's network, strongly typed, so that every value keeps the type it has in the bundle."""

from dataclasses import dataclass, field
from typing import Any

from rmexport.compile.library import Library
from rmexport.compile.tensorrt_rewrites import ParserModel
from rmexport.errors import CompilationFailed


@dataclass
class Messages:
    """The errors that the library logs; one step of a compilation may log several.

    >>> str(Messages(["Error Code 2:  out of memory"]).failure("cannot build the engine"))
    'cannot build the engine: Error Code 2: out of memory'
    """

    errors: list[str] = field(default_factory=list)

    def failure(self, what: str) -> CompilationFailed:
        """The error to raise, which quotes the library's messages."""
        words = "; ".join(" ".join(error.split()) for error in self.errors) or "it does not say why"
        return CompilationFailed(f"{what}: {words}")


@dataclass(frozen=True)
class Network:
    """A parsed network. It keeps the parser, which owns the weights."""

    library: Library
    messages: Messages
    builder: Any
    definition: Any
    parser: Any

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of each input."""
        values = [self.definition.get_input(i) for i in range(self.definition.num_inputs)]
        return {v.name: tuple(v.get_dimension_name(axis) for axis in range(len(v.shape))) for v in values}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the layers' outputs by name, with -1 for dimensions that depend on the inputs."""
        outputs = [layer.get_output(i) for layer in self._layers() for i in range(layer.num_outputs)]
        return {value.name: tuple(value.shape) for value in outputs}

    def _layers(self) -> list[Any]:
        return [self.definition.get_layer(i) for i in range(self.definition.num_layers)]


def parse(library: Library, model: ParserModel) -> Network:
    """The network of `model`. Raises CompilationFailed with all messages of the parser."""
    trt, messages = library.module, Messages()
    try:
        builder = trt.Builder(_logger(trt, messages))
    except TypeError as error:  # its constructor returned nothing
        raise messages.failure(f"{library.name} {library.version} cannot start here") from error
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(typed)
    parser = trt.OnnxParser(definition, builder.logger)
    if not parser.parse(model.proto, str(model.path)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        messages.errors[:] = [f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors] or messages.errors
        raise messages.failure(f"{library.name} {library.version} cannot read {model.path.name}")
    messages.errors.clear()
    return Network(library, messages, builder, definition, parser)


def _logger(trt: Any, messages: Messages) -> Any:
    class ErrorLogger(trt.ILogger):  # type: ignore[misc] # the library is untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.errors.append(text)

    return ErrorLogger()
