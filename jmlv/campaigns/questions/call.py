"""A function of one's own as a question: whatever is not one of the library's verbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions.question import Question
from jmlv.campaigns.sources import Network, found, require_place
from jmlv.graph import Classifier


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CallQuestion(Question):
    """``module:function`` called with keyword arguments; it returns a row's values or an ``Answer``.

    The key has the function's name, not its code: change ``version`` when its answers change.

    Attributes:
        function: dotted module, a colon, the function's name.
        arguments: keyword arguments, as far as :func:`jmlv.canonical.digest` can name them.
        version: of the function.

    >>> question = CallQuestion("math:sqrt", {"x": 2.0})
    >>> question == CallQuestion("math:sqrt", {"x": 2.0}, tags={"number": 1})
    True
    """

    kind: ClassVar[str] = "call"

    network: Network | None = dataclasses.field(default=None, kw_only=True)
    function: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    version: int = dataclasses.field(default=1, kw_only=True)
    budget: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_place("function", self.function)
        self._freeze(arguments=dict(self.arguments))

    def _require_network(self) -> None:
        pass

    def answer(self, f: Classifier | None) -> Answer:
        result = found("function", self.function)(**self.arguments)
        return result if isinstance(result, Answer) else Answer(result)
