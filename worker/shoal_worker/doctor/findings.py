"""What the doctor says of one thing."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Grade(StrEnum):
    """`fault` must be mended, `warning` may be meant, `fine` was looked at."""

    FAULT = "fault"
    WARNING = "warning"
    FINE = "fine"


class Finding(BaseModel):
    """`check` is a stable word for programs. `why` says what comes of it, `fix` what to type or to set."""

    model_config = ConfigDict(frozen=True)

    check: str
    grade: Grade
    what: str
    why: str = ""
    fix: str = ""

    @property
    def line(self) -> str:
        """All of it for a log or an error."""
        return ": ".join(filter(None, (self.what, self.why))) + (f"; {self.fix}" if self.fix else "")


def fault(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check=check, grade=Grade.FAULT, what=what, why=why, fix=fix)


def warning(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check=check, grade=Grade.WARNING, what=what, why=why, fix=fix)


def fine(check: str, what: str) -> Finding:
    return Finding(check=check, grade=Grade.FINE, what=what)
