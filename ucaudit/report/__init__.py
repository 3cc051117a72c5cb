"""The evidence report: profiles, view model, charts, rendering."""

from ucaudit.evidence.examine import EndorsementFacts, LedgerFacts
from ucaudit.report.bundle import bundle_view, check_bundle, render_bundle
from ucaudit.report.profiles import Profile, load_profile, profile_names
from ucaudit.report.view import ReportView, build_view

__all__ = [
    "EndorsementFacts",
    "LedgerFacts",
    "Profile",
    "ReportView",
    "build_view",
    "bundle_view",
    "check_bundle",
    "load_profile",
    "profile_names",
    "render_bundle",
]
