"""Before anything runs: what a scan will cost in time and memory, and which smaller way is taken where it costs too much.

costs counts one window of the actual networks without memory; machine says what there is; ladder names the ways from the
one that was asked for down to the smallest; plan puts them together; running follows the plan.
"""
