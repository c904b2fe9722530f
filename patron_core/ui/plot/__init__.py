"""Curves of runs, as one widget for all pages: made for long series that grow while somebody looks at them.

uplot/    the plotting library, as published: version 1.6.32 of `uplot` at npm, MIT
"""
