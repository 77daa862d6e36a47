"""The tab "Interactions" of TensorBoard: the runs below its log folder as they go on, by the report's figures.

TensorBoard finds it by its entry point and loads it at its start, so nothing heavy is imported before the tab is looked
at. Records are read and never written; whatever they hold is sent as values and shown as text.
"""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request

# Looking through a log folder takes a while, and TensorBoard asks often.
_REMEMBERED = 5.0
_MOST_FOLDERS = 20_000
_MOST_RECORDS = 200


class InteractionsPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # tensorboard has no types
    """Serves the tab and the figures of each recorded run.

    Args:
        context: TensorBoard's; its `logdir` is searched for records.
    """

    plugin_name = "interactions"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._folder = Path(context.logdir) if context.logdir else None
        self._found: dict[str, Path] = {}
        self._looked = float("-inf")
        self._lock = threading.Lock()  # reading a record warns, and warnings are the process's

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Return what is served, by path."""
        return {
            "/index.js": _serving(lambda: _text("charts.js") + _text("tab.js"), "application/javascript"),
            "/style.css": _serving(lambda: _text("style.css"), "text/css"),
            "/runs": _serving(lambda: json.dumps(list(self._records())), "application/json"),
            "/run": self._answering(run_page),
            "/samples": self._answering(samples_of),
            "/theory": self._answering(theory_of),
        }

    def is_active(self) -> bool:
        """Tell whether there is a record to show."""
        return bool(self._records())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Say how the tab is called and where its script is."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Interactions", disable_reload=True)

    def _records(self) -> dict[str, Path]:
        if self._folder is not None and time.monotonic() - self._looked > _REMEMBERED:
            self._found = find_records(self._folder)
            self._looked = time.monotonic()
        return self._found

    def _answering(self, answer: Callable[[Path], dict[str, Any]]) -> Callable[..., Iterable[bytes]]:
        """Serve what a function makes of the record that a request names, or why it cannot."""

        def serve(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            folder = self._records().get(Request(environ).args.get("name", ""))
            if folder is None:
                return _respond(environ, start, json.dumps({"error": "there is no such run"}), "application/json", 404)
            try:
                with self._lock, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = answer(folder)
            except Exception as error:  # a damaged record must not take the others' figures with it
                found = {"error": f"{type(error).__name__}: {error}"}
            return _respond(environ, start, json.dumps(found, ensure_ascii=False, allow_nan=False), "application/json")

        return serve


def find_records(folder: Path) -> dict[str, Path]:
    """List the records below TensorBoard's log folder, sorted: path below it, as text, to the record's folder."""
    from interaction_monitor.record.files import records_below

    found = islice(records_below(folder, most_folders=_MOST_FOLDERS), _MOST_RECORDS)
    return {os.path.relpath(record, folder): record for record in found}


def run_page(folder: Path) -> dict[str, Any]:
    """Return what the tab shows of a run at once: words, figures, and how far it has come."""
    from interaction_monitor.console import advice, as_sentence, clauses
    from interaction_monitor.history.landmarks import places
    from interaction_monitor.plots.browser_figures import run_figures
    from interaction_monitor.record import Record

    history = Record.open(folder).history
    if not len(history):
        return {"error": "nothing is measured yet"}
    return {
        "verdict": clauses(history),
        "advice": as_sentence(advice(history)),
        "measured": f"{len(history)} measurements, the last at {places(history)[-1]}",
        "figures": run_figures(history),
    }


def samples_of(folder: Path) -> dict[str, Any]:
    """Return a few samples with their strongest interactions at the end, and what these were at the onset."""
    from interaction_monitor.history.landmarks import onset_index, places
    from interaction_monitor.plots.sample_inputs import examples
    from interaction_monitor.record import Record

    record = Record.open(folder)
    named, last, onset = places(record.history), len(record.history) - 1, onset_index(record.history)
    moments = [(named[last], record.measurements[last])]
    if onset is not None and onset < last:
        moments.insert(0, (f"onset, {named[onset]}", record.measurements[onset]))
    return {"players": record.n_players, "samples": [asdict(example) for example in examples(record, moments)]}


def theory_of(folder: Path) -> dict[str, Any]:
    """Return the theory laid over a run; it takes a while, so it comes only when it is asked for."""
    from interaction_monitor.plots.theory_figures import for_browser
    from interaction_monitor.plots.theory_text import findings
    from interaction_monitor.record import Record
    from interaction_monitor.theory import fit_record

    overlay = fit_record(Record.open(folder))
    return {"findings": findings(overlay), "figures": for_browser(overlay)}


def _text(name: str) -> str:
    return files("interaction_monitor").joinpath("report").joinpath(name).read_text(encoding="utf-8")


def _serving(text: Callable[[], str], kind: str) -> Callable[..., Iterable[bytes]]:
    return lambda environ, start: _respond(environ, start, text(), kind)


def _respond(environ: Mapping[str, Any], start: Any, text: str, kind: str, code: int = 200) -> Iterable[bytes]:
    headers = [("X-Content-Type-Options", "nosniff")]
    response = http_util.Respond(Request(dict(environ)), text, kind, code=code, headers=headers)
    answer: Iterable[bytes] = response(environ, start)
    return answer
