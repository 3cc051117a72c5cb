"""The evidence report: profiles, view model, charts, rendering."""

from ucaudit.report.bundle import bundle_view, render_bundle
from ucaudit.report.profiles import Profile, load_profile, profile_names
from ucaudit.report.view import EndorsementFacts, LedgerFacts, ReportView, build_view

__all__ = [
    "EndorsementFacts",
    "LedgerFacts",
    "Profile",
    "ReportView",
    "build_view",
    "bundle_view",
    "load_profile",
    "profile_names",
    "render_bundle",
]
