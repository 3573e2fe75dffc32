"""The words that models are given: one Markdown file per prompt and version, loaded once.

A file's name is its address (`classify.v1`), its `$name` marks are its variables. A released file is never edited:
a change of words is a new version, so that an answer can be traced to the words that asked for it.
"""

from functools import cache
from importlib.resources import files
from string import Template


def fill(name: str, **variables: str) -> str:
    """The text of a prompt. Raises ValueError unless exactly its own variables are given."""
    template, own = _template(name)
    if own != variables.keys():
        raise ValueError(f"prompt {name} takes {sorted(own)}, not {sorted(variables)}")
    return template.substitute(variables)


@cache
def _template(name: str) -> tuple[Template, frozenset[str]]:
    template = Template(files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8").strip())
    return template, frozenset(template.get_identifiers())
