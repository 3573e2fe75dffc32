"""Who may look at Flower and command workers from it: decided from `FLOWER_*` before it listens. Pure but for files."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flower.utils.authentication import validate_auth_option

from shoal.errors import SettingsError

_FALSE = ("", "0", "n", "no", "f", "false", "off")
_OAUTH = ("AUTH_PROVIDER", "OAUTH2_KEY", "OAUTH2_SECRET", "OAUTH2_REDIRECT_URI")
#: Without one of these, whoever reaches the port commands the workers.
LOGIN = "FLOWER_BASIC_AUTH=user:password (or FLOWER_BASIC_AUTH_FILE), or FLOWER_AUTH for OAuth"


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """`logins` are `user:password`; `oauth2_secret` and `cookie_secret` are None where nobody logs in by OAuth."""

    logins: tuple[str, ...] = ()
    oauth2_secret: str | None = None
    cookie_secret: str | None = None

    @property
    def is_closed(self) -> bool:
        """Whether anybody has to log in."""
        return bool(self.logins or self.oauth2_secret)


def access_of(environ: Mapping[str, str], host: str) -> Access:
    """What the variables say for a server on that host. Raises `SettingsError` that lists every fault."""
    faults: list[str] = []
    logins = _logins(environ, faults)
    secret = _oauth2_secret(environ, faults) if environ.get("FLOWER_AUTH") else None
    cookies = _secret(environ, "COOKIE_SECRET", faults)
    if environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() not in _FALSE:
        faults.append("FLOWER_UNAUTHENTICATED_API: unset it: any web page could command the workers")
    if environ.get("FLOWER_DEBUG", "").lower() not in _FALSE:
        faults.append("FLOWER_DEBUG: unset it: error pages would show code")
    if not (logins or environ.get("FLOWER_AUTH") or faults or is_loopback(host)):
        faults.append(f"FLOWER_BASIC_AUTH: {host or 'every address'} can be reached by others, so set {LOGIN}")
    if faults:
        raise SettingsError("\n".join(["Flower does not start:", *(f"  {fault}" for fault in faults)]))
    return Access(logins, secret, cookies or (_derived(secret) if secret else None))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost may mean anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _logins(environ: Mapping[str, str], faults: list[str]) -> tuple[str, ...]:
    text = _secret(environ, "BASIC_AUTH", faults) or ""
    logins = tuple(login.strip() for login in text.replace("\n", ",").split(",") if login.strip())
    for login in logins:
        user, _, password = login.partition(":")
        # Flower compares them as ASCII, and answers anything else with an error.
        if not user or not password or not login.isascii():
            faults.append("FLOWER_BASIC_AUTH: must be user:password in ASCII, several with commas between")
            break
    return logins


def _oauth2_secret(environ: Mapping[str, str], faults: list[str]) -> str | None:
    secret = _secret(environ, "OAUTH2_SECRET", faults)
    found = {"OAUTH2_SECRET"} if secret else set()
    lacking = [name for name in _OAUTH if not environ.get(f"FLOWER_{name}") and name not in found]
    if lacking:
        faults.append(f"FLOWER_AUTH: OAuth needs {', '.join(f'FLOWER_{name}' for name in lacking)} too")
    if not validate_auth_option(environ["FLOWER_AUTH"]):
        faults.append("FLOWER_AUTH: must be an address, several with | between, or .*@one.domain")
    return secret


def _secret(environ: Mapping[str, str], name: str, faults: list[str]) -> str | None:
    """From the variable, or from the file that `FLOWER_<name>_FILE` names."""
    variable, path = f"FLOWER_{name}", environ.get(f"FLOWER_{name}_FILE")
    if path is None:
        return environ.get(variable) or None
    if environ.get(variable):
        faults.append(f"{variable}: set it or {variable}_FILE, not both")
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{variable}_FILE: cannot be read: {type(error).__name__}")
        return None
    if not text:
        faults.append(f"{variable}_FILE: is empty")
    return text or None


def _derived(oauth2_secret: str) -> str:
    """What signs cookies: the same in every replica and after each start, and no other secret to keep."""
    return hmac.new(oauth2_secret.encode(), b"shoal flower cookies", hashlib.sha256).hexdigest()
