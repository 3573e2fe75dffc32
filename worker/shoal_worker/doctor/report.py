"""How findings are shown, and what they make of the command's exit status."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from shoal_worker.doctor.findings import Finding, Grade


def status(findings: Sequence[Finding], *, strict: bool) -> int:
    """The command's exit status: 1 where something must be mended; with `strict` for warnings too."""
    grades = {finding.grade for finding in findings}
    return int(Grade.FAULT in grades or (strict and Grade.WARNING in grades))


def summary(findings: Sequence[Finding]) -> str:
    counted = {grade: sum(finding.grade == grade for finding in findings) for grade in Grade}
    return f"{counted[Grade.FAULT]} to mend, {counted[Grade.WARNING]} to know, {counted[Grade.FINE]} fine"


def document(findings: Sequence[Finding], *, strict: bool) -> dict[str, Any]:
    """The report for programs."""
    told = [finding.model_dump(mode="json", exclude_defaults=True) for finding in findings]
    return {"ok": not status(findings, strict=strict), "findings": told}


_COLOURS = {Grade.FAULT: "bold red", Grade.WARNING: "yellow", Grade.FINE: "green"}


def table(findings: Sequence[Finding]) -> Table:
    """The report for people: faults first, each with its reason and its fix below it."""
    shown = Table("", "check", "found", box=None, padding=(0, 2, 0, 0))
    for grade in Grade:
        for finding in findings:
            if finding.grade == grade:
                below = [f"[dim]{escape(finding.why)}[/]"] if finding.why else []
                below += [f"[bold]→ {escape(finding.fix)}[/]"] if finding.fix else []
                text = "\n".join([escape(finding.what), *below])
                shown.add_row(f"[{_COLOURS[grade]}]{grade}[/]", finding.check, text)
    return shown
