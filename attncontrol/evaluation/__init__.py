"""Scoring batch folders: metrics, tables of methods with paired intervals, reports."""
