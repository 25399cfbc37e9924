"""Prompts: the sentences a scan is compared with. Light; the encoder that needs torch is `text.encoder`."""

from DiffuGTSLib.text.prompts import PromptPair, check_prompt, free_prompts, organ_prompts, organs, phrasings

__all__ = ["PromptPair", "check_prompt", "free_prompts", "organ_prompts", "organs", "phrasings"]
