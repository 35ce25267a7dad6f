"""From component checkpoints to one DynFocus directory."""

from dynfocus.assembly.assembler import AssembleReport, assemble

__all__ = ["AssembleReport", "assemble"]
