"""Compiles a bundle's graph into an engine for one kind of GPU, which is kept inside the bundle.

Bundle -> graph in the forms that the parser takes -> profiles from the manifest's limits -> engine and its record.
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
