"""Fences around untrusted text, which the text cannot close.

A tag ends in eight hex digits of the content's hash, so that whoever writes the content cannot know them without
changing them; equal content gets equal tags, so that providers' prefix caches and answer caches still hit.
"""

from hashlib import sha256
from itertools import count

NONCE_DIGITS = 8


def fenced(tag: str, content: str, attributes: str = "") -> str:
    """`content` between tags of its own. `attributes` is ours: ` id="3"`."""
    name = f"{tag}-{nonce(content)}"
    return f"<{name}{attributes}>\n{content}\n</{name}>"


def nonce(content: str) -> str:
    """Hex digits that do not occur in the content: the first of a fixed series of hashes."""
    hashed = sha256(content.encode("utf-8", "surrogatepass"))
    for turn in count():
        digits = hashed.hexdigest()[:NONCE_DIGITS]
        if digits not in content:
            return digits
        hashed.update(b"%d" % turn)
    raise AssertionError("count() does not end")
