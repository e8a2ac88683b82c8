"""Reports: tables for programs, a page for people, a summary for the terminal."""

from engine.reports.report import ContactSheet, Report

__all__ = ["ContactSheet", "Report"]
