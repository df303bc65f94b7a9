"""Suites that measure finished videos, and pages that show results."""
