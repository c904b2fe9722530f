"""What machines cost where, which of them a run should take, and when to leave spot for on-demand. Pure.

offers.py        the market: prices that are believed, rows that are not and why
accelerators.py  SkyPilot's names for GPUs and ours
spot_cost.py     what reclaims add to a run: lost work, new starts (Young, Daly)
placement.py     the cheapest machine that fits memory, deadline and caps; every other one and why not
spot_policy.py   with a deadline: spot while there is slack, on-demand when it is gone
simulate.py      that policy on a trace of when spot was to be had
"""
