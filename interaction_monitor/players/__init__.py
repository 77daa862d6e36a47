"""Players: what an input variable is, for each kind of data."""

from interaction_monitor.players.base import Baseline, PlayerMap, Players
from interaction_monitor.players.feature_patches import FeaturePatches
from interaction_monitor.players.image_patches import ImagePatches

__all__ = ["Baseline", "FeaturePatches", "ImagePatches", "PlayerMap", "Players"]
