"""Published models on this computer: which there are, where they lie, how they come here and what they become.

`manifest` and `store` load without torch. `fetch` needs huggingface_hub, `convert` and `install` the networks.
"""
