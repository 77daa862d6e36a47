"""English words that carry little meaning of their own."""

from __future__ import annotations

# Negations (no, not, never, n't) are left out on purpose: they turn the meaning of what they stand with.
STOP_WORDS = frozenset(
    """
    a about above after again all also although am an and any are as at be because been before being below between both
    but by can could did do does doing down during each either else ever few for from further had has have having he her
    here hers herself him himself his how however i if in into is it its itself just ll may me might mine more most much
    must my myself of off on once one only onto or other ought our ours ourselves out over own per quite rather re same
    shall she should since so some such than that the their theirs them themselves then there these they this those
    though through thus to too under until up upon us ve very was we were what when where whether which while who whom
    whose why will with within would yet you your yours yourself yourselves s t d m
    """.split()  # noqa: SIM905 - a paragraph is easier to read than a hundred quoted words
)
