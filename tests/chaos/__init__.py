"""Worlds in which everything that can go wrong does, from a seed: `python -m tests.chaos --worlds 2000`.

stage      actors that take turns: each runs alone up to its next point, where it may be left standing, or die
world      a store, a scripted machine, a clock; two supervisors without a lease between them, and a person
promises   what must hold at every moment, and at the end
"""
