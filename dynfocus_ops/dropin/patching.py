"""`patch`: finds a project's copies, compares each with its replacement, and swaps those that agree."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType, TracebackType
from typing import Any

from torch import nn

from dynfocus_ops.dropin.comparing import difference
from dynfocus_ops.dropin.dialects import DIALECTS, NAMES, REPLACEMENTS, Replacement

logger = logging.getLogger("dynfocus_ops")


@dataclass(frozen=True)
class Replaced:
    function: str
    dialect: str
    places: tuple[str, ...]  # every name that led to the function

    def __str__(self) -> str:
        return f"{self.function}: {self.dialect}, in {', '.join(self.places)}"


@dataclass(frozen=True)
class Refused:
    function: str
    reason: str

    def __str__(self) -> str:
        return f"{self.function}: left as it is, {self.reason}"


@dataclass(frozen=True)
class Swap:
    owner: ModuleType | type
    name: str
    original: Any
    replacement: Any


@dataclass
class Patch:
    """What `patch` did. `restore()`, or leaving a `with` block, undoes it; print it to read it."""

    replaced: list[Replaced] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list, repr=False)

    def restore(self) -> None:
        """Puts the originals back.

        Raises:
            RuntimeError: where something else has taken a replacement's place since; the others are put back.
        """
        taken = []
        while self.swaps:
            swap = self.swaps.pop()
            if vars(swap.owner).get(swap.name) is swap.replacement:
                setattr(swap.owner, swap.name, swap.original)
            else:
                taken.append(f"{title(swap.owner)}.{swap.name}")
        if taken:
            raise RuntimeError(f"{', '.join(taken)} changed after patch and stayed as found; the rest is restored")

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.restore()

    def __str__(self) -> str:
        return "\n".join(map(str, [*self.replaced, *self.refused]))


def patch(target: ModuleType | type | nn.Module, dialect: str | None = None) -> Patch:
    """Replaces the density-peaks clustering of another project by ours.

    A function's name and parameters only nominate it. It and its replacement then run on the same seeded inputs on the
    CPU, masked ones among them, and are swapped only if results, gradients and use of torch's generator agree. A
    function is replaced wherever a loaded module holds it, so also where it was imported by name.

    Args:
        target: a module (a package with its loaded submodules), a class, or a model, which stands for the classes of
            its parts. Of a class: its methods, and the functions that they call.
        dialect: considers this one only, a module of `dynfocus_ops.dropin`.

    Returns:
        A Patch: lists what was replaced and what not and why, and restores; also a context manager.

    Raises:
        TypeError, ValueError: a wrong target or dialect; nothing to replace, with the reason for each candidate.
    """
    if dialect is not None and dialect not in DIALECTS:
        raise ValueError(f"dialect is {dialect!r}, it must be one of {DIALECTS}")
    done = Patch()
    for owner, function in list(candidates(target)):  # before anything is replaced
        where = f"{function.__module__}.{function.__qualname__}"
        if function.__module__.startswith("dynfocus_ops."):
            done.refused.append(Refused(where, "it is one of ours already"))
            continue
        replacement, reason = choose(function, owner, dialect)
        if replacement is None:
            done.refused.append(Refused(where, reason))
            continue
        swaps = [Swap(at, known_as, function, replacement.function) for at, known_as in holders(function, owner)]
        for swap in swaps:
            setattr(swap.owner, swap.name, swap.replacement)
        done.swaps += swaps
        done.replaced.append(
            Replaced(where, replacement.dialect, tuple(f"{title(swap.owner)}.{swap.name}" for swap in swaps))
        )
    if not done.replaced:
        reasons = "; ".join(map(str, done.refused)) or f"it has no function named {', '.join(sorted(NAMES))}"
        raise ValueError(f"target is {target_name(target)}, there is nothing to replace in it: {reasons}")
    for refused in done.refused:
        logger.warning("%s", refused)
    return done


def candidates(target: ModuleType | type | nn.Module) -> Iterator[tuple[ModuleType | type, FunctionType]]:
    """(owner, function) of each function in `target` that has one of the names, once."""
    seen = set()
    for owner in owners(target):
        for name, value in named(owner):
            if name in NAMES and isinstance(value, FunctionType) and value not in seen:
                seen.add(value)
                yield owner, value


def owners(target: ModuleType | type | nn.Module) -> Iterator[ModuleType | type]:
    if isinstance(target, ModuleType):
        inside = [module for name, module in list(sys.modules.items()) if name.startswith(f"{target.__name__}.")]
        for module in [target, *(module for module in inside if isinstance(module, ModuleType))]:
            yield module
            yield from (
                value
                for value in list(vars(module).values())
                if isinstance(value, type) and value.__module__ == module.__name__
            )
    elif isinstance(target, type):
        yield from (kind for kind in target.__mro__ if not kind.__module__.startswith(("torch.", "builtins")))
    elif isinstance(target, nn.Module):
        for kind in dict.fromkeys(type(part) for part in target.modules()):
            yield from owners(kind)
    else:
        raise TypeError(f"target is a {type(target).__name__}, it must be a module, a class or a model")


def named(owner: ModuleType | type) -> Iterator[tuple[str, Any]]:
    """What `owner` holds, and, for a class, the global functions that its methods name."""
    for name, value in list(vars(owner).items()):
        yield name, value
        if isinstance(owner, type) and isinstance(value, FunctionType):
            yield from ((used, value.__globals__[used]) for used in names_in(value.__code__) & value.__globals__.keys())


def names_in(code: CodeType) -> set[str]:
    nested = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*nested)


def choose(function: FunctionType, owner: ModuleType | type, dialect: str | None) -> tuple[Replacement | None, str]:
    """The replacement that agrees with `function`, or None and why there is none."""
    reasons: dict[str, str] = {}
    for replacement in REPLACEMENTS:
        if replacement.name == function.__name__ and dialect in (None, replacement.dialect):
            reason = misfit(function, replacement) or disagreement(function, owner, replacement)
            if reason is None:
                return replacement, ""
            reasons[replacement.dialect] = reason
    return None, "; ".join(f"not {name}: {reason}" for name, reason in reasons.items()) or f"{dialect} has no such name"


def misfit(function: Callable[..., Any], replacement: Replacement) -> str | None:
    """Why its parameters are not the replacement's: same names in order, same defaults; an optional tail may lack."""
    theirs = list(inspect.signature(function).parameters.values())
    ours = replacement.parameters
    fits = all(
        (mine.name, mine.default, mine.kind) == (its.name, its.default, its.kind)
        for mine, its in zip(ours, theirs, strict=False)
    )
    if fits and len(theirs) <= len(ours) and all(p.default is not p.empty for p in ours[len(theirs) :]):
        return None
    return f"it takes ({written(theirs)}), not ({written(ours)})"


def written(parameters: list[inspect.Parameter]) -> str:
    return ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters)


def disagreement(function: FunctionType, owner: ModuleType | type, replacement: Replacement) -> str | None:
    """Why results differ on the first probe where they do."""
    parameters = set(inspect.signature(function).parameters)
    is_method = "self" in parameters
    for probe in replacement.probes(parameters):
        before = (Stand(owner),) if is_method else ()
        reason = difference(function, replacement.function, (*before, *probe.args), replacement.tolerance)
        if reason is not None:
            return f"on the probe {probe.name!r} {reason}"
    return None


class Stand:
    """In the place of an instance of `owner`, which may not be constructible: its methods find each other."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._owner, name)
        return MethodType(value, self) if isinstance(value, FunctionType) else value


def holders(function: FunctionType, owner: ModuleType | type) -> list[tuple[ModuleType | type, str]]:
    """Every loaded module that holds `function` under any name, and every class of one that does under its own."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    found: dict[tuple[ModuleType | type, str], None] = {}
    for holder in [owner, *modules]:
        for name, value in list(vars(holder).items()):
            if value is function:
                found[holder, name] = None
            elif issubclass(type(value), type) and vars(value).get(function.__name__) is function:
                found[value, function.__name__] = None
    return list(found)


def title(owner: ModuleType | type) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


def target_name(target: Any) -> str:
    return title(target) if isinstance(target, ModuleType | type) else f"a {title(type(target))}"
