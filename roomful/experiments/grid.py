"""Parameter grids: every combination of the values of some axes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from roomful.errors import InputError


class ComputedParam:
    """An axis whose value, or values, are computed from earlier axes: ``ComputedParam(lambda a, b: a * b)``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InputError(f"ComputedParam takes a function, not {function!r}")
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        self._needed = [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]

    def values(self, axis: str, earlier: dict[str, Any]) -> Sequence[Any]:
        """Return the axis's values after these of the earlier axes."""
        missing = [name for name in self._needed if name not in earlier]
        if missing:
            fix = f"only axes before it can be used: {', '.join(earlier) or 'none'}"
            raise InputError(f"axis {axis!r} is computed from {', '.join(missing)}", where="ParameterGrid", fix=fix)
        given = {name: value for name, value in earlier.items() if self._takes_all or name in self._names}
        return _values(self.function(**given))


class ParameterGrid:
    """The Cartesian product of axes: ``ParameterGrid(a=range(4), b=[1, 2], c="text")``.

    A scalar or a string is an axis of one value, a ComputedParam depends on axes before it, an empty axis is left
    out. The first axis varies slowest.
    """

    def __init__(self, **axes: Any) -> None:
        self._axes: dict[str, Any] = {
            name: values if isinstance(values, ComputedParam) else _values(values) for name, values in axes.items()
        }

    def update(self, **axes: Any) -> ParameterGrid:
        """Return a grid with some axes changed or added."""
        return ParameterGrid(**{**self._axes, **axes})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._combinations(list(self._axes.items()), {})

    def _combinations(self, axes: list[tuple[str, Any]], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not axes:
            yield dict(chosen)
            return
        (name, values), rest = axes[0], axes[1:]
        if isinstance(values, ComputedParam):
            values = values.values(name, chosen)
        if not values:
            yield from self._combinations(rest, chosen)
        for value in values:
            yield from self._combinations(rest, {**chosen, name: value})

    def count(self, most: int) -> int:
        """Count the combinations, up to ``most`` where counting would take long."""
        if any(isinstance(values, ComputedParam) for values in self._axes.values()):
            return sum(1 for _ in zip(range(most), self, strict=False))
        return math.prod(max(1, len(values)) for values in self._axes.values())

    def get(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield each combination with its name."""
        for params in self:
            yield params, label(params)


def label(params: dict[str, Any]) -> str:
    """Write a combination as part of a name: ``a=4_b=4_to_file=False``."""
    return "_".join(f"{name}={value}" for name, value in params.items())


def _values(values: Any) -> Sequence[Any]:
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        return [values]
    if isinstance(values, range):
        return values  # however long: whoever wrote it is asked before that is unfolded
    # A set's own order changes from run to run.
    return sorted(values, key=repr) if isinstance(values, set | frozenset) else list(values)
