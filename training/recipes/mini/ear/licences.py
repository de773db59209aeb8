"""Which sounds may be trained on, so that the weights can be Apache-2.0."""

from __future__ import annotations

import re

_PERMISSIVE = re.compile(
    r"\s*(CC[ -]?0|CC[ -]BY(?![ -]?(SA|NC|ND))|PD\b|Public domain|MIT\b|BSD|Apache|Unlicense|Zlib|ISC\b"
    r"|Iowa MIS: free)",
    re.IGNORECASE,
)
_NOT = re.compile(r"BY[ -]SA|BY[ -]NC|\bNC\b|\bND\b|GPL|ODbL|ODC|resale|sampling|Artistic|GFDL|LAL", re.IGNORECASE)


def permissive(row: dict) -> bool:
    """Whether a sound may be trained on: CC0, public domain, CC BY, MIT, BSD, Apache or alike, and nothing besides.

    Left out, though its rows name such a licence: clips of runsy/petz of which no origin is known, because that
    repository quotes a site that also uses non-commercial licences.
    """
    if row.get("share_alike") or row["source"].startswith("petz:"):
        return False
    return bool(_PERMISSIVE.match(row["licence"])) and not _NOT.search(row["licence"])
