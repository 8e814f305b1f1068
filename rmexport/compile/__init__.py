"""Compiles a bundle's graph into an engine for one kind of GPU, which is stored inside the bundle.

The steps: bundle -> graph rewritten for TensorRT's parser -> profiles from the manifest's limits -> engine and record.
"""

from rmexport.compile.compiled import Compiled, compile_bundle
from rmexport.compile.options import CompileOptions
from rmexport.errors import CompilationFailed, CompilerNotInstalled, NotCompilable

__all__ = [
    "CompilationFailed",
    "CompileOptions",
    "Compiled",
    "CompilerNotInstalled",
    "NotCompilable",
    "compile_bundle",
]
