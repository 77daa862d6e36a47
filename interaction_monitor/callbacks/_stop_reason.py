"""Asking a stop rule, on all processes together, without letting its mistakes end somebody's training."""

from __future__ import annotations

from interaction_monitor.callbacks.faults import Faults
from interaction_monitor.observer import Observer
from interaction_monitor.stopping import StopRule

ELSEWHERE = "the rule said so on another process"


def reason_to_stop(rule: StopRule | None, observer: Observer, faults: Faults) -> str | None:
    """Return the rule's sentence if the run should stop now; None if it should go on, or the rule failed.

    Args:
        rule: the rule; None lets the run go on.
        observer: what was measured so far, and on which processes.
        faults: what happens if the rule fails.
    """
    reason = None
    if rule is not None:
        with faults.guard(f"the stop rule {type(rule).__name__}"), observer.ranks.together():
            reason = rule.sentence(observer.history)
    return reason
