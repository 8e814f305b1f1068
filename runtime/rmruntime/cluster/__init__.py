"""Scores files on a Ray cluster: one scorer per device, ordered shards, and a journal from which a killed run goes on.

Ray is imported by name in `session`, and only there.
"""
