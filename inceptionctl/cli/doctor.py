"""`inceptionctl doctor`: check this machine before a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.errors import EnvironmentFault

if TYPE_CHECKING:
    from inceptionctl.doctor import Diagnosis


def doctor(as_json: Json = False) -> None:
    """Check packages, GPUs, disk and limits, and start DALI and DeepSpeed once. Exit code 4 if a check fails."""
    from inceptionctl.doctor import examine

    with console.working("checking this machine; starting DALI and DeepSpeed takes some seconds"):
        findings = examine()
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if as_json:
        items = [{"name": item.name, "state": item.state, "found": item.found, "hint": item.hint} for item in findings]
        console.print_json({"ok": not failed, "findings": items})
    else:
        _print_findings(findings)
    if failed:
        count = "1 check fails" if len(failed) == 1 else f"{len(failed)} checks fail"
        raise EnvironmentFault(f"{count}: {', '.join(failed)}")


def _print_findings(findings: list[Diagnosis]) -> None:
    console.print_table("This machine", ("state", "check", "found"), [(item.state, item.name, item.found) for item in findings])
    for item in findings:
        if item.state != "ok" and item.hint:
            # Not wrapped: a hint holds commands to copy.
            console.out.print(f"\n{item.state}: {item.name}: {item.found}\nhint: {item.hint}", soft_wrap=True)
