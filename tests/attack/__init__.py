"""Hostile inputs for m2d: seeded generators, a guard around every trial, and a verdict.

`python -m tests.attack --seconds 600 --seed 1` runs trials of all classes in turn; the suite runs a few.
Every trial is one command in a process of its own, on files that were changed at random.
"""
