"""Explanations of a trained system: where it looks, what decides, what it confuses."""

from zsljax.explain.report import explain

__all__ = ["explain"]
