"""The library as a process of its own, for programs that cannot run torch themselves.

Nothing is imported here, so that the other side can read the protocol without torch.
"""
