"""Stand-in for the module SampleData: it keeps what is registered, and loads nothing."""

from __future__ import annotations

from typing import Any

registered: list[dict[str, Any]] = []


class SampleDataLogic:
    """The two class methods that extensions call."""

    @staticmethod
    def registerCustomSampleDataSource(**source: Any) -> None:
        """Keep the description of a data set, by category and name."""
        key = (source.get("category"), source.get("sampleName"))
        registered[:] = [entry for entry in registered if (entry.get("category"), entry.get("sampleName")) != key]
        registered.append(source)

    @staticmethod
    def isSampleDataSourceRegistered(category: str, source: Any) -> bool:
        """Say whether a data set is known."""
        return any(entry.get("category") == category for entry in registered)
