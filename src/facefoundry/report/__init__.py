"""The report: one HTML page that needs no network, made from what the stages left behind."""

from facefoundry.report.page import write_report

__all__ = ["write_report"]
