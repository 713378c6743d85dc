"""What an argument may be, written into the signature that takes it: `max_evals: Annotated[int, Ge(1), Le(1000)]`.

The constructor checks it (`check`), and so does the command line, which reads the signature before anything is built.
Standard library only.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from ifpn.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ge:
    """Not below `limit`."""

    limit: float


@dataclass(frozen=True)
class Gt:
    """Above `limit`."""

    limit: float


@dataclass(frozen=True)
class Le:
    """Not above `limit`."""

    limit: float


@dataclass(frozen=True)
class Lt:
    """Below `limit`."""

    limit: float


@dataclass(frozen=True)
class OneOf:
    """One of these values."""

    values: tuple[object, ...]

    def __init__(self, *values: object) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Length:
    """A sequence of `low` to `high` items."""

    low: int
    high: int | None = None


Bound = Ge | Gt | Le | Lt | OneOf | Length
# Channels: beyond, a typing error asks for more memory than there is.
Width = Annotated[int, Ge(1), Le(2048)]
Count = Annotated[int, Ge(1), Le(10**9)]
Probability = Annotated[float, Ge(0), Le(1)]
Rate = Annotated[float, Ge(0), Lt(1)]
# Of a loss.
Weight = Annotated[float, Ge(0), Le(1e6)]


def check(target: T) -> T:
    """Decorate a function or class: its bounded arguments are checked at each call.

    Arguments without a bound or a `Literal` are left to the function.

    Raises:
        UserError: at the call, for the first argument outside its bounds.
    """
    call = _function(target)
    signature = inspect.signature(call)

    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, hint in _bounded(call).items():
            if name in given and (allowed := violation(hint, given[name])):
                raise UserError(f"{name}={shown(given[name])}: must be {allowed}.")
        return call(*args, **kwargs)

    if isinstance(target, type):
        target.__init__ = checked  # type: ignore[misc]  # the same call, looked at first
        return target
    return typing.cast(T, checked)


@functools.cache
def hints(call: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function or of a class's constructor, with their bounds."""
    return typing.get_type_hints(inspect.unwrap(_function(call)), include_extras=True)


@functools.cache  # some of these calls are made for every image
def _bounded(call: Callable[..., Any]) -> Mapping[str, Any]:
    return {name: hint for name, hint in hints(call).items() if is_bounded(hint)}


def _function(call: Callable[..., Any]) -> Callable[..., Any]:
    return call.__init__ if isinstance(call, type) else call  # type: ignore[misc]  # of this very class


def violation(hint: Any, value: object) -> str | None:
    """What a value must be that is not what `hint` allows; None if it is. An unknown kind of hint allows all."""
    return None if _allows(hint, value) else describe(hint)


def shown(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def describe(hint: Any) -> str:
    """What a hint allows, in words that follow "must be"."""
    kind, bounds = _split(hint)
    one_of = next((b.values for b in bounds if isinstance(b, OneOf)), None)
    if get_origin(kind) is Literal:
        one_of = get_args(kind)
    if one_of is not None:
        return _listed([shown(v) for v in one_of])
    if _is_union(kind):
        parts = [
            describe(Annotated[(part, *bounds)] if bounds else part) for part in get_args(kind) if part is not _NONE
        ]
        return _listed(parts) + (", or null" if _NONE in get_args(kind) else "")
    if _item(kind) is not None:
        return f"a list ([a, b]){_length(bounds)}, each {describe(_item(kind))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(
        kind, "a part with a _target_"
    )
    return words + _range(bounds)


def _length(bounds: Sequence[Bound]) -> str:
    length = next((b for b in bounds if isinstance(b, Length)), None)
    if length is None:
        return ""
    return f" of {length.low}" if length.low == length.high else f" of {length.low} or more"


def _range(bounds: Sequence[Bound]) -> str:
    low = next((b for b in bounds if isinstance(b, Ge | Gt)), None)
    high = next((b for b in bounds if isinstance(b, Le | Lt)), None)
    above = "" if low is None else f", {low.limit} or more" if isinstance(low, Ge) else f" above {low.limit}"
    if high is None:
        return above
    most = f"at most {high.limit}" if isinstance(high, Le) else f"below {high.limit}"
    if low is None:
        return f", {most}"
    return f" from {low.limit} to {most.removeprefix('at most ')}" if isinstance(low, Ge) else f"{above} and {most}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


_NONE = type(None)


def _split(hint: Any) -> tuple[Any, tuple[Bound, ...]]:
    if get_origin(hint) is Annotated:
        kind, *extra = get_args(hint)
        return kind, tuple(b for b in extra if isinstance(b, Bound))
    return hint, ()


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _parts(union: Any, bounds: Sequence[Bound]) -> list[Any]:
    """The alternatives of a union, each under the bounds of the whole; None has none."""
    return [Annotated[(p, *bounds)] if bounds and p is not _NONE else p for p in get_args(union)]


def _item(kind: Any) -> Any:
    """The hint of a sequence's items; None if it is no sequence."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, Sequence) or (origin is tuple and arguments[1:] == (...,)):
        return arguments[0]
    return arguments[0] if origin is tuple and len(set(arguments)) == 1 else None


def is_bounded(hint: Any) -> bool:
    """Whether a hint says more than a type: a bound or a `Literal`, of the value or its items."""
    kind, bounds = _split(hint)
    inner = get_args(kind) if _is_union(kind) else [_item(kind)] if _item(kind) is not None else []
    return bool(bounds) or get_origin(kind) is Literal or any(map(is_bounded, inner))


def _allows(hint: Any, value: object) -> bool:
    kind, bounds = _split(hint)
    if _is_union(kind):
        return any(_allows(part, value) for part in _parts(kind, bounds))
    if get_origin(kind) is Literal:
        return any(value == v and type(value) is type(v) for v in get_args(kind))
    if _item(kind) is not None:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return False
        return all(_allows(_item(kind), v) for v in value) and all(_met(bound, value) for bound in bounds)
    return _is_kind(kind, value) and (value is None or all(_met(bound, value) for bound in bounds))


def _is_kind(kind: Any, value: object) -> bool:
    if isinstance(value, bool) and kind in (int, float):  # Python counts them as numbers
        return False
    if kind is float:
        return isinstance(value, Real) and _is_finite(value)
    if kind in (bool, int, str, _NONE):
        return isinstance(value, Integral if kind is int else kind)
    # A class of its own, or something to call: no plain value can stand for it.
    own = (inspect.isclass(kind) and kind is not Any) or get_origin(kind) is Callable
    return not (own and (value is None or isinstance(value, str | Real | list | tuple | dict)))


def _met(bound: Bound, value: Any) -> bool:
    if isinstance(bound, OneOf):
        return any(value == v and type(value) is type(v) for v in bound.values)
    if isinstance(bound, Length):
        return bound.low <= len(value) and (bound.high is None or len(value) <= bound.high)
    if isinstance(bound, Ge | Gt):
        return bool(value > bound.limit or (isinstance(bound, Ge) and value == bound.limit))
    return bool(value < bound.limit or (isinstance(bound, Le) and value == bound.limit))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
