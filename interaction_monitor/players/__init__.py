"""Players: what an input variable is, for each kind of data."""

from interaction_monitor.players.base import Baseline, Players
from interaction_monitor.players.columns import Columns, Spans
from interaction_monitor.players.patches import FeaturePatches, ImagePatches, TokenPatches
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.players.segments import PointClusters, Segments
from interaction_monitor.players.words import Words

__all__ = [
    "Baseline",
    "Columns",
    "FeaturePatches",
    "ImagePatches",
    "PlayerMap",
    "Players",
    "PointClusters",
    "Segments",
    "Spans",
    "TokenPatches",
    "Words",
]
