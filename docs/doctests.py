"""For mkdocstrings: doctests are code. Markdown would read '[0.1 0.2]' in their output as a link."""

import re

import griffe

DOCTEST = re.compile(r"((?:^[ \t]*>>> .*\n?)(?:^[ \t]*\S.*\n?)*)", re.M)


class Fenced(griffe.Extension):
    """Puts every doctest of a docstring between fences."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match) -> str:
    return f"```pycon\n{found.group(1).rstrip()}\n```\n"
