"""Scores files on a Ray cluster: one scorer per device, ordered shards, and a journal with which a killed run resumes.

Ray is imported by name in `session`, and only there.
"""
